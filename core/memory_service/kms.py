"""The guide's `memory_service.kms`: the service that records rotations."""

from daena_kms.kms import CloudKey, KeyManagementService, RecordedRotation, RotationFailedError

__all__ = ["CloudKey", "KeyManagementService", "RecordedRotation", "RotationFailedError"]

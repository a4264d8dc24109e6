"""The guide's `memory_service.cloud_kms`: an adapter for each cloud's key store, and one for the local vault."""

from daena_kms.kms import (
    AWSKMSAdapter,
    AzureKeyVaultAdapter,
    CloudKey,
    GCPSecretManagerAdapter,
    KeyStoreAdapter,
    LocalVaultAdapter,
    RotationFailedError,
    get_cloud_kms_adapter,
)

__all__ = [
    "AWSKMSAdapter",
    "AzureKeyVaultAdapter",
    "CloudKey",
    "GCPSecretManagerAdapter",
    "KeyStoreAdapter",
    "LocalVaultAdapter",
    "RotationFailedError",
    "get_cloud_kms_adapter",
]

"""The import paths of the Cloud KMS Integration Guide. Everything lives in `daena_kms.kms`."""

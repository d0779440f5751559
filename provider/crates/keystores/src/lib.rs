//! Roots of trust: AWS KMS, Azure Key Vault, Google Cloud KMS, PKCS#11.

//! Contract servers of Azure Key Vault and Google Cloud KMS for tests: never part of the product.

//! The key stores that the tests and `make up` run: LocalStack's AWS KMS, SoftHSM, and our contract servers.

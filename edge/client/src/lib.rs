//! Client of the Crypto Edge for applications.

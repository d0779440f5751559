//! No type that holds key bytes or plaintexts can be printed by accident: the compiler says whether one has `Debug`.

use std::{fmt::Debug, marker::PhantomData};

/// Whether a type has `Debug`. The inherent constant is there only for types that do, and wins over the trait's.
macro_rules! prints {
    ($of:ty) => {{
        #[allow(dead_code)]
        trait Otherwise {
            const PRINTS: bool = false;
        }
        impl<T: ?Sized> Otherwise for T {}
        #[allow(dead_code)]
        struct Asked<T: ?Sized>(PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + Debug> Asked<T> {
            const PRINTS: bool = true;
        }
        <Asked<$of>>::PRINTS
    }};
}

#[test]
fn secrets_have_no_debug() {
    assert!(prints!(u8) && prints!(openkcm_edge::envelope::Header), "the question works");
    let printing = [
        prints!(openkcm_secret::SecretKey),
        prints!(openkcm_secret::Locked<u8>),
        prints!(openkcm_edge::envelope::XaesKey),
        prints!(openkcm_edge::envelope::Chunker),
        prints!(openkcm_edge::store::Material),
        prints!(openkcm_edge::store::KeyVersion),
        prints!(openkcm_edge::store::KeyEntry),
        prints!(openkcm_edge::store::Lent<'static>),
        prints!(openkcm_edge::store::KeyStore),
        prints!(openkcm_edge::engine::DataKey),
        prints!(openkcm_edge::engine::BatchOutput),
        prints!(openkcm_edge::engine::Stream),
        prints!(openkcm_edge_client::DataKey),
        prints!(openkcm_edge_client::Outputs),
        prints!(openkcm_edge_client::Token),
    ];
    assert_eq!(printing, [false; 15]);
}

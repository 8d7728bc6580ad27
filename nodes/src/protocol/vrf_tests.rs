//! The vectors of RFC 9381, appendix B.3, and proofs, keys and points that must be refused.

use super::*;
use proptest::prelude::*;

struct Vector {
    secret: &'static str,
    public: &'static str,
    alpha: &'static str,
    scalar: &'static str,
    h: &'static str,
    proof: &'static str,
    output: &'static str,
}

/// Examples 16, 17 and 18.
const VECTORS: [Vector; 3] = [
    Vector {
        secret: "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        public: "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        alpha: "",
        scalar: "307c83864f2833cb427a2ef1c00a013cfdff2768d980c0a3a520f006904de94f",
        h: "91bbed02a99461df1ad4c6564a5f5d829d0b90cfc7903e7a5797bd658abf3318",
        proof: "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f\
                26f8a57ccaed74ee1b190bed1f479d97\
                27d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
        output: "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff\
                 66b71dda49d2de59d03450451af026798e8f81cd2e333de5cdf4f3e140fdd8ae",
    },
    Vector {
        secret: "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        public: "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        alpha: "72",
        scalar: "68bd9ed75882d52815a97585caf4790a7f6c6b3b7f821c5e259a24b02e502e51",
        h: "5b659fc3d4e9263fd9a4ed1d022d75eaacc20df5e09f9ea937502396598dc551",
        proof: "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed593\
                3bf0864a62558b3ed7f2fea45c92a465\
                301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
        output: "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb\
                 5e33821bc613efb94db5e5b54c70a848a0bef4553a41befc57663b56373a5031",
    },
    Vector {
        secret: "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        public: "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        alpha: "af82",
        scalar: "909a8b755ed902849023a55b15c23d11ba4d7f4ec5c2f51b1325a181991ea95c",
        h: "bf4339376f5542811de615e3313d2b36f6f53c0acfebb482159711201192576a",
        proof: "9bc0f79119cc5604bf02d23b4caede71393cedfbb191434dd016d30177ccbf80\
                96bb474e53895c362d8628ee9f9ea3c0\
                e52c7a5c691b6c18c9979866568add7a2d41b00b05081ed0f58ee5e31b3a970e",
        output: "645427e5d00c62a23fb703732fa5d892940935942101e456ecca7bb217c61c45\
                 2118fec1219202a0edcf038bb6373241578be7217ba85a2687f7a0310b2df19f",
    },
];

fn hex<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

#[test]
fn the_vectors_of_the_rfc() {
    for vector in &VECTORS {
        let (secret, public) = (hex(vector.secret), hex(vector.public));
        let alpha = hex::decode(vector.alpha).unwrap();
        let hash: [u8; 64] = Sha512::digest(secret).into();
        assert_eq!(clamp_integer(halves(&hash).0), hex(vector.scalar));
        assert_eq!(public_key(&secret), public);
        let h = encode_to_curve(&public, &alpha).unwrap();
        assert_eq!(h.compress().to_bytes(), hex(vector.h));
        let proof = prove(&secret, &alpha).unwrap();
        assert_eq!(proof, hex(vector.proof));
        assert_eq!(verify(&public, &alpha, &proof), Ok(hex(vector.output)));
        assert_eq!(proof_to_hash(&proof), Ok(hex(vector.output)));
    }
}

#[test]
fn no_flipped_bit_is_accepted() {
    let secret = [5; 32];
    let public = public_key(&secret);
    let proof = prove(&secret, b"epoch 3").unwrap();
    for bit in 0..8 * PROOF_LEN {
        let mut bad = proof;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            verify(&public, b"epoch 3", &bad).is_err(),
            "bit {bit} of the proof"
        );
    }
    for bit in 0..8 * PUBLIC_LEN {
        let mut bad = public;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            verify(&bad, b"epoch 3", &proof).is_err(),
            "bit {bit} of the key"
        );
    }
    assert_eq!(
        verify(&public, b"epoch 4", &proof),
        Err(VrfError::Challenge)
    );
}

/// Encodings that must be refused: the eight points of small order, in each encoding that
/// decompression takes, those with y at or above the field's order p among them, and no point at all.
const BAD_POINTS: &[(&str, &str)] = &[
    (
        "identity",
        "0100000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        "identity, negative zero",
        "0100000000000000000000000000000000000000000000000000000000000080",
    ),
    (
        "identity, y = p + 1",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ),
    (
        "order 2",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ),
    (
        "order 2, negative zero",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ),
    (
        "order 4",
        "0000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        "order 4, other sign",
        "0000000000000000000000000000000000000000000000000000000000000080",
    ),
    (
        "order 4, y = p",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ),
    (
        "order 8",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ),
    (
        "order 8, other sign",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    ),
    (
        "order 8, other y",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ),
    (
        "order 8, other y and sign",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ),
    (
        "no point",
        "0200000000000000000000000000000000000000000000000000000000000000",
    ),
];

#[test]
fn keys_that_are_no_keys_are_refused() {
    let proof = prove(&[5; 32], b"").unwrap();
    for (what, key) in BAD_POINTS {
        assert_eq!(
            verify(&hex(key), b"", &proof),
            Err(VrfError::PublicKey),
            "{what}"
        );
    }
}

#[test]
fn only_one_encoding_of_a_point_and_of_a_scalar_is_taken() {
    let secret = [5; 32];
    let public = public_key(&secret);
    let good = prove(&secret, b"").unwrap();
    for (what, point) in BAD_POINTS {
        let mut bad = good;
        bad[..32].copy_from_slice(&hex::<32>(point));
        let canonical = [
            "identity",
            "order 2",
            "order 4",
            "order 4, other sign",
            "order 8",
        ];
        let expected = if canonical.contains(what) || what.starts_with("order 8") {
            VrfError::Challenge
        } else {
            VrfError::Gamma
        };
        assert_eq!(verify(&public, b"", &bad), Err(expected), "{what}");
    }
    // The same scalar plus the group's order, which fits into 32 bytes as well.
    let order: [u8; 32] = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut bad = good;
    let mut carry = 0;
    for (byte, add) in bad[48..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    assert_eq!(verify(&public, b"", &bad), Err(VrfError::Scalar));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn proofs_verify_and_only_for_their_key_and_input(
        secret: [u8; 32],
        other: [u8; 32],
        alpha in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let public = public_key(&secret);
        let proof = prove(&secret, &alpha).unwrap();
        prop_assert_eq!(verify(&public, &alpha, &proof), proof_to_hash(&proof));
        let longer = [alpha.as_slice(), &[0]].concat();
        prop_assert!(verify(&public, &longer, &proof).is_err());
        prop_assume!(secret != other);
        prop_assert!(verify(&public_key(&other), &alpha, &proof).is_err());
    }

    #[test]
    fn any_bytes_are_refused(
        public: [u8; 32],
        head: [u8; 32],
        middle: [u8; 16],
        tail: [u8; 32],
    ) {
        let mut proof = [0; PROOF_LEN];
        proof[..32].copy_from_slice(&head);
        proof[32..48].copy_from_slice(&middle);
        proof[48..].copy_from_slice(&tail);
        prop_assert!(verify(&public, b"", &proof).is_err());
    }
}

//! Tests of the datagram codec.

use super::*;
use proptest::prelude::*;

const ALICE: SecretKey = [1; 32];
const BOB: SecretKey = [2; 32];

fn pong_of(ping: &[u8], netid: u32, id: u64) -> Vec<u8> {
    let (sender, _) = open(&BOB, ping).unwrap();
    let wrapped = Wrapped {
        request: false,
        kind: KIND_PING,
        id,
        body: encode_listens(None),
    };
    let message = Message::discovery(public_key(&BOB), netid, 9, wrapped);
    seal(&BOB, &sender, &[8; 24], &message.encode())
}

#[test]
fn a_ping_is_read_by_its_target_and_its_pong_by_the_sender() {
    let bob = public_key(&BOB);
    let ping = ping(&ALICE, &bob, &[7; 24], 116, 5, 42);
    assert_eq!(ping[..32], public_key(&ALICE));
    let (sender, plain) = open(&BOB, &ping).unwrap();
    let message = Message::decode(&plain).unwrap();
    assert_eq!(
        (sender, message.netid, message.timestamp_ns),
        (public_key(&ALICE), 116, 5)
    );

    let pong = parse_pong(&ALICE, &bob, 116, 42, &pong_of(&ping, 116, 42)).unwrap();
    assert_eq!((pong.responder, pong.timestamp_ns), (bob, 9));
    let refused = |datagram: &[u8]| parse_pong(&ALICE, &bob, 116, 42, datagram).unwrap_err();
    assert_eq!(refused(&pong_of(&ping, 116, 41)).reason(), "unexpected");
    assert_eq!(refused(&pong_of(&ping, 117, 42)).reason(), "netid");
    assert_eq!(refused(&ping).reason(), "sealed");
    assert_eq!(refused(&ping[..40]).reason(), "too-short");
}

#[test]
fn the_box_is_that_of_nacl() {
    // The vector of tests/box.c in NaCl (keys of RFC 7748, 6.1).
    let decode = |text: &str| hex::decode(text).unwrap();
    let alice: SecretKey =
        decode("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
            .try_into()
            .unwrap();
    let bob: PublicKey = decode("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        .try_into()
        .unwrap();
    let nonce: Nonce = decode("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
        .try_into()
        .unwrap();
    let text = decode(concat!(
        "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c6129",
        "6cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde",
        "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705"
    ));
    let sealed = decode(concat!(
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a",
        "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
        "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74",
        "e355a5"
    ));
    let datagram = seal(&alice, &bob, &nonce, &text);
    assert_eq!(hex::encode(&datagram[56..]), hex::encode(sealed));
}

#[test]
fn damage_anywhere_in_a_datagram_is_noticed() {
    let datagram = ping(&ALICE, &public_key(&BOB), &[7; 24], 116, 5, 42);
    for byte in 0..datagram.len() {
        let mut damaged = datagram.clone();
        damaged[byte] ^= 1;
        let opened = open(&BOB, &damaged);
        assert_eq!(opened, Err(WireError::Sealed), "byte {byte}");
    }
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_plain_text_is_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), &bytes[..]);
        }
        if let Ok(addresses) = Addresses::decode(&bytes) {
            prop_assert_eq!(addresses.encode(), &bytes[..]);
        }
        if let Ok(listens) = decode_listens(&bytes) {
            prop_assert_eq!(encode_listens(listens), &bytes[..]);
        }
    }

    #[test]
    fn any_datagram_is_opened_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open(&BOB, &bytes).is_err());
        prop_assert!(parse_pong(&BOB, &public_key(&ALICE), 116, 1, &bytes).is_err());
    }

    #[test]
    fn messages_damaged_under_the_seal_never_panic(at in 0_usize..200, value: u8, cut in 0_usize..200) {
        let wrapped = Wrapped { request: true, kind: KIND_GET_ADDRESSES, id: 1, body: vec![4; 50] };
        let mut plain = Message::discovery(public_key(&ALICE), 116, 5, wrapped).encode();
        let at = at % plain.len();
        plain[at] = value;
        if let Ok(message) = Message::decode(&plain) {
            prop_assert_eq!(message.encode(), &plain[..]);
        }
        let cut = cut % plain.len();
        prop_assert!(Message::decode(&plain[..cut]).is_err());
    }

    #[test]
    fn messages_round_trip(
        netid: u32, timestamp_ns: u64, id: u64, kind: u32, request: bool, raw: bool,
        body in prop::collection::vec(any::<u8>(), 0..2000),
        name in "[a-z/0-9]{0,20}",
    ) {
        let payload = if raw { Payload::Raw(body) } else {
            Payload::Wrapped(Wrapped { request, kind, id, body })
        };
        let message = Message {
            next_protocol: name.clone(), client_version: name, timestamp_ns,
            auth_key: [3; 32], netid, payload,
        };
        prop_assert_eq!(Message::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn addresses_round_trip_up_to_their_limit(
        list in prop::collection::vec((any::<[u8; 32]>(), addresses()), 0..MAX_ADDRESSES + 5),
    ) {
        let back = Addresses::decode(&Addresses(list.clone()).encode()).unwrap();
        prop_assert_eq!(&back.0[..], &list[..list.len().min(MAX_ADDRESSES)]);
        let longest = Message::discovery([0; 32], 1, 1, Wrapped {
            request: false, kind: KIND_GET_ADDRESSES, id: 1, body: back.encode(),
        });
        let datagram = seal(&ALICE, &public_key(&BOB), &[0; 24], &longest.encode());
        prop_assert!(datagram.len() <= MAX_DATAGRAM);
    }
}

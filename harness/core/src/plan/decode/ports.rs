//! `ports:` of a role: names, numbers, transports.

use std::collections::BTreeMap;

use super::super::keys::{self, PORT};
use super::super::model::{Port, Transport};
use super::super::raw;
use super::super::reader::{Field, Reader};
use super::at_key;

/// Numbers of ports declared by transport only. Others count up from here in the order of the text.
const USUAL_PORTS: &[(&str, u16)] = &[("p2p", 7513), ("api", 9090)];
const FIRST_PORT: u16 = 10_000;

pub(super) fn ports(reader: &mut Reader, field: &Field<'_>) -> BTreeMap<String, Port> {
    let mut ports: BTreeMap<String, Port> = BTreeMap::new();
    for (at, (key, value)) in reader
        .named(field)
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        reader.kebab("port", &key.text, at_key(key), &value.path);
        let Some(port) = port(reader, &key.text, at, &value) else {
            continue;
        };
        if let Some((other, _)) = ports.iter().find(|(_, other)| clash(other, &port)) {
            let why = format!("`{}` listens on {} like `{other}`", key.text, port.number);
            reader.wrong(
                value.node.span,
                &value.path,
                why,
                "give it another number: { port: 7514, transport: tcp }",
            );
        }
        ports.insert(key.text.clone(), port);
    }
    ports
}

fn port(reader: &mut Reader, name: &str, at: usize, value: &Field<'_>) -> Option<Port> {
    if let raw::Kind::Map(_) = value.node.kind {
        let fields = reader.fields(value, &PORT)?;
        let number = fields.count(reader, "port");
        let transport = fields.word(reader, "transport").map(transport);
        return Some(Port {
            number: u16::try_from(number?).ok()?,
            transport: transport?,
        });
    }
    let transport = transport(reader.word(value, keys::TRANSPORTS)?);
    let usual = USUAL_PORTS
        .iter()
        .find(|(usual, _)| *usual == name)
        .map(|(_, number)| *number);
    let next = FIRST_PORT.saturating_add(u16::try_from(at).unwrap_or(u16::MAX));
    Some(Port {
        number: usual.unwrap_or(next),
        transport,
    })
}

fn transport(word: &str) -> Transport {
    match word {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => Transport::UdpTcp,
    }
}

fn clash(a: &Port, b: &Port) -> bool {
    a.number == b.number
        && (a.transport == b.transport
            || a.transport == Transport::UdpTcp
            || b.transport == Transport::UdpTcp)
}

//! How nodes talk: UDP discovery with sessions, and the TCP swarm that carries gossip.
//!
//! Reading order: `wire` (datagrams), `session_table` (where netid 116 died), `udp`, `discovery`;
//! then `frame` (TCP frames), `peers` (who to be connected to), `swarm`, `gossip`.

pub(crate) mod codec;
pub(crate) mod discovery;
pub(crate) mod frame;
pub(crate) mod gossip;
pub(crate) mod peers;
pub(crate) mod session_table;
pub(crate) mod swarm;
pub(crate) mod udp;
pub mod wire;

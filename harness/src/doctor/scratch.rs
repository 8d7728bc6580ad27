//! What scratch children and containers of `doctor` are: a hidden subcommand of our own executable that does one thing, says
//! how it went in one line of JSON, and ends, or serves until it is killed.
//!
//! `write BYTES`: one write of so much into a new file of its directory. `serve ADDRESS`: UDP and TCP there, as a node has
//! them. `namespaces`: see the module beside this one. Nothing here decides what that means.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use serde::{Deserialize, Serialize};

use super::namespaces::{self, Entered};

/// What a scratch program says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// Of `write`: how many bytes the first write took, and the error number of the next.
    Wrote {
        /// Bytes.
        first: usize,
        /// 0 is none.
        then: i32,
    },
    /// Of `serve`: it can be reached; and what rights the first process of its container has, in hexadecimal digits.
    Serves {
        /// The `CapEff` line of process 1.
        rights: Option<String>,
    },
    /// Of `namespaces`.
    Entered(Vec<Entered>),
    /// It could not.
    Failed(String),
}

/// The entry point of the hidden subcommand. Returns its exit code.
pub fn main(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    let text: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let done = match text.as_deref() {
        Some(["write", bytes]) => bytes.parse().map_err(io::Error::other).and_then(write),
        Some(["serve", address]) => address.parse().map_err(io::Error::other).and_then(serve),
        Some(["namespaces"]) => Ok(Said::Entered(namespaces::enter())),
        _ => Err(io::Error::other("unknown words")),
    };
    let said = done.unwrap_or_else(|error| Said::Failed(error.to_string()));
    match say(&said) {
        Ok(()) if !matches!(said, Said::Failed(_)) => 0,
        _ => 1,
    }
}

fn say(said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    // Not through a lock that buffers: what is said must be out before this process is killed.
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

fn write(bytes: usize) -> io::Result<Said> {
    // The plain file: an error has its number then.
    let (mut file, _) = fs_err::File::create_new("written")?.into_parts();
    let data = vec![0xA5; bytes];
    let first = file.write(&data)?;
    let then = match file.write(&data) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    Ok(Said::Wrote { first, then })
}

/// Reads what comes and keeps connections no longer than it takes to accept them. Never returns.
fn serve(address: SocketAddr) -> io::Result<Said> {
    let udp = UdpSocket::bind(address)?;
    let tcp = TcpListener::bind(address)?;
    std::thread::Builder::new().spawn(move || {
        let mut buffer = [0; 2048];
        // An error here is a datagram's, such as one that came back; the next is waited for.
        loop {
            let _ = udp.recv(&mut buffer);
        }
    })?;
    let rights = fs_err::read_to_string("/proc/1/status").ok();
    let rights = rights.as_deref().and_then(|status| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))?;
        Some(line.trim().to_owned())
    });
    say(&Said::Serves { rights })?;
    loop {
        let _ = tcp.accept();
    }
}

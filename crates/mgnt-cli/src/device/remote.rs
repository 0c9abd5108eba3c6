//! Devices that another process serves, and the serving of one's own.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use burn::tensor::Device;

use super::DeviceWord;

/// One of the devices that share a training step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A device of this process.
    Own(DeviceWord),
    /// A device that `mgnt serve-device` serves, by the address of its WebSocket.
    Served(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if word.starts_with("ws://") {
            return Ok(Self::Served(word.to_owned()));
        }
        word.parse().map(Self::Own).map_err(|error: String| format!("{error} or ws://HOST:PORT"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(word) => word.fmt(f),
            Self::Served(address) => f.write_str(address),
        }
    }
}

/// Environment variable with the word that a served device asks of its clients.
#[cfg(feature = "remote")]
const TOKEN: &str = "MGNT_DEVICE_TOKEN";

/// That word, where it is set. One that is no text must not be taken for none.
#[cfg(feature = "remote")]
fn token() -> anyhow::Result<Option<String>> {
    let text = |word: std::ffi::OsString| {
        word.into_string().map_err(|_| crate::failure::bad_use(format!("{TOKEN}: expected text")))
    };
    std::env::var_os(TOKEN).map(text).transpose()
}

impl Place {
    /// Opens the device, or says what is missing.
    pub fn open(&self) -> anyhow::Result<Device> {
        match self {
            Self::Own(word) => word.open(),
            Self::Served(address) => connect(address),
        }
    }
}

#[cfg(feature = "remote")]
fn connect(address: &str) -> anyhow::Result<Device> {
    use anyhow::Context;
    use burn::remote::RemoteHost;
    let mut host = RemoteHost::websocket(address);
    if let Some(token) = token()? {
        host = host.with_credential(token);
    }
    Device::remote_options(&host).init().with_context(|| format!("--devices {address}"))
}

/// Serves a device until the process is asked to stop.
#[cfg(feature = "remote")]
pub fn serve(device: Device, address: SocketAddr) -> anyhow::Result<()> {
    use anyhow::Context;
    use burn::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("--listen {address}"))?;
    let mut server = RemoteServer::new([device]);
    if let Some(token) = token()? {
        server = server.with_authorizer(TokenAuthorizer::new(token).with_context(|| TOKEN)?);
    }
    tell!("serving on ws://{}", listener.local_addr()?);
    server.serve(WebSocketTransport::from_listener(listener)).context("serving")
}

#[cfg(not(feature = "remote"))]
fn connect(_: &str) -> anyhow::Result<Device> {
    Err(not_built())
}

/// Serves a device until the process is asked to stop.
#[cfg(not(feature = "remote"))]
pub fn serve(_: Device, _: SocketAddr) -> anyhow::Result<()> {
    Err(not_built())
}

#[cfg(not(feature = "remote"))]
fn not_built() -> anyhow::Error {
    crate::failure::bad_use(
        "this mgnt was built without devices of other processes; `cargo build --release -p mgnt-cli --features \
         remote` builds them in",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!("cuda:1".parse(), Ok(Place::Own(DeviceWord::Cuda(1))));
        assert_eq!("ws://localhost:3000".parse(), Ok(Place::Served("ws://localhost:3000".into())));
        assert!("http://localhost".parse::<Place>().unwrap_err().contains("ws://"));
    }

    #[cfg(not(feature = "remote"))]
    #[test]
    fn what_was_not_built_in_names_the_command_that_does() {
        let error = Place::Served("ws://localhost:1".into()).open().unwrap_err().to_string();
        assert!(error.contains("--features remote"), "{error}");
    }
}

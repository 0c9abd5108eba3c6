//! `mgnt serve-device`: lends a device of this machine to a training elsewhere.

use std::net::SocketAddr;

use clap::Args;

use crate::device::{DeviceWord, remote};

/// Arguments of `mgnt serve-device`.
#[derive(Args)]
pub struct Arguments {
    /// Address to listen on
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// The device to serve
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    device: DeviceWord,
}

/// Serves it until Ctrl-C.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    remote::serve(arguments.device.open()?, arguments.listen)
}

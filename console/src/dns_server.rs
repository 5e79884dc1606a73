//! DNS servers on the command line.

use std::net::{IpAddr, SocketAddr};

/// The port of DNS (RFC 1035, section 4.2).
const PORT: u16 = 53;

/// A DNS server: an address, with or without a port.
///
/// # Errors
///
/// What was expected.
pub fn parse(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .or_else(|_| text.parse().map(|address: IpAddr| SocketAddr::new(address, PORT)))
        .map_err(|_| "expected an IP address, with or without a port, such as 169.254.169.253 or 127.0.0.1:5353")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_with_or_without_a_port() {
        assert_eq!(parse("127.0.0.1"), Ok("127.0.0.1:53".parse().unwrap()));
        assert_eq!(parse("[::1]:5353"), Ok("[::1]:5353".parse().unwrap()));
        assert!(parse("dns.internal").is_err());
    }
}

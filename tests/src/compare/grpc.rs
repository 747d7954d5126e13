//! The two calls of etcd's v3 API that the comparison makes, over HTTP/2.
//!
//! Owns the gRPC framing (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>) and as much of Protocol Buffers as
//! these messages need (`rpc.proto` of etcd 3.4). A general client would bring a code generator with it, and cost etcd more time a call.
//! Must never be used for more than measuring.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use hyper::{HeaderMap, Method, Request};
use tokio::net::UnixStream;

/// Tag of a field of bytes: its number and wire type 2.
const fn tag(field: u8) -> u8 {
    field << 3 | 2
}

/// `PutRequest.key` and `RangeRequest.key`.
const KEY: u8 = tag(1);
/// `PutRequest.value`.
const VALUE: u8 = tag(2);
/// `RangeResponse.kvs`.
const KVS: u8 = tag(2);

/// One connection.
#[derive(Debug)]
pub struct Etcd {
    send: SendRequest<Bytes>,
}

impl Etcd {
    /// The connection's own work is a task of the runtime.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let (send, connection) = h2::client::handshake(stream).await.context("HTTP/2 handshake")?;
        tokio::spawn(connection);
        Ok(Self { send })
    }

    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut message = BytesMut::with_capacity(key.len() + value.len() + 16);
        field(&mut message, KEY, key);
        field(&mut message, VALUE, value);
        self.call("/etcdserverpb.KV/Put", &message).await.map(drop)
    }

    /// A linearizable read, which is etcd's default; whether there is such a key.
    pub async fn get(&self, key: &[u8]) -> Result<bool> {
        let mut message = BytesMut::with_capacity(key.len() + 8);
        field(&mut message, KEY, key);
        let reply = self.call("/etcdserverpb.KV/Range", &message).await?;
        has_field(&reply, KVS)
    }

    async fn call(&self, path: &str, message: &[u8]) -> Result<Bytes> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut send = self.send.clone().ready().await?;
        let (response, mut body) = send.send_request(request, false)?;
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.put_slice(message);
        body.send_data(frame.freeze(), true)?;
        let (parts, mut body) = response.await?.into_parts();
        let mut reply = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            reply.extend_from_slice(&chunk);
        }
        // A call that fails at once has its status in the head.
        check_status(&body.trailers().await?.unwrap_or(parts.headers))?;
        ensure!(reply.len() >= 5 && reply[0] == 0, "a reply without a plain message");
        Ok(reply.freeze().slice(5..))
    }
}

fn check_status(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
    match text("grpc-status") {
        "0" => Ok(()),
        status => bail!("gRPC status {status}: {}", text("grpc-message")),
    }
}

fn field(message: &mut BytesMut, tag: u8, bytes: &[u8]) {
    message.put_u8(tag);
    let mut rest = bytes.len();
    while rest >= 0x80 {
        message.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    message.put_u8(rest as u8);
    message.put_slice(bytes);
}

/// Whether a message has such a field on its top level.
fn has_field(mut message: &[u8], wanted: u8) -> Result<bool> {
    while let Some((&tag, rest)) = message.split_first() {
        if tag == wanted {
            return Ok(true);
        }
        let (number, after) = varint(rest)?;
        message = match tag & 7 {
            0 => after,
            2 => usize::try_from(number).ok().and_then(|length| after.get(length..)).context("cut short")?,
            other => bail!("wire type {other} is not in these messages"),
        };
    }
    Ok(false)
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((number, &bytes[index + 1..]));
        }
    }
    bail!("a number without an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_protocol_buffers_has_them() {
        let mut message = BytesMut::new();
        field(&mut message, KEY, b"k");
        field(&mut message, VALUE, &[7; 300]);
        assert_eq!(message[..6], [0x0A, 1, b'k', 0x12, 0xAC, 0x02]);
        assert_eq!(message.len(), 3 + 3 + 300);
        assert!(has_field(&message, VALUE).unwrap());
        // A header and `more`, then a count: no pair.
        assert!(!has_field(&[0x0A, 2, 8, 1, 0x18, 1, 0x20, 0x80, 1], KVS).unwrap());
        for broken in [&[0x0A, 9, 1][..], &[0x0A], &[0x20, 0x80], &[0x0D, 0]] {
            assert!(has_field(broken, KVS).is_err(), "{broken:?}");
        }
    }
}

//! fastwebsockets as published, in the setup of its own `echo_server` example: hyper's upgrade, a fragment collector, one
//! unconstrained task per connection, on a current-thread runtime. `fastwebsockets_server PORT`

#![forbid(unsafe_code)]

use std::io;

use baton_benches::listening;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

fn main() -> io::Result<()> {
    let listener = listening::from_arguments()?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let http = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(accept));
                if let Err(error) = http.with_upgrades().await {
                    eprintln!("{error}");
                }
            });
        }
    })
}

async fn accept(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    tokio::spawn(async move {
        if let Err(error) = tokio::task::unconstrained(serve(upgraded)).await {
            eprintln!("{error}");
        }
    });
    Ok(response)
}

async fn serve(upgraded: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    let mut count = 0u64;
    loop {
        match socket.read_frame().await?.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text => {
                count += 1;
                let reply = format!(r#"{{"count":{count}}}"#);
                socket.write_frame(Frame::text(Payload::Owned(reply.into_bytes()))).await?;
            }
            _ => {}
        }
    }
}

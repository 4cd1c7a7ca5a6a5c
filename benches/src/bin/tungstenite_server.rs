//! Stock tokio-tungstenite, in the setup of its own `echo-server` example: `accept_async`, one task per connection, the
//! incoming half forwarded to the outgoing one (which flushes once nothing more has arrived), on a current-thread runtime.
//! `tungstenite_server PORT`

#![forbid(unsafe_code)]

use std::io;

use baton_benches::listening;
use futures_util::{StreamExt, TryStreamExt, future};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};

fn main() -> io::Result<()> {
    let listener = listening::from_arguments()?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                if let Err(error) = serve(stream).await {
                    eprintln!("{error}");
                }
            });
        }
    })
}

async fn serve(stream: TcpStream) -> Result<(), Error> {
    let (outgoing, incoming) = tokio_tungstenite::accept_async(stream).await?.split();
    let mut count = 0u64;
    incoming
        .try_filter(|message| future::ready(message.is_text()))
        .map_ok(|_| {
            count += 1;
            Message::text(format!(r#"{{"count":{count}}}"#))
        })
        .forward(outgoing)
        .await
}

//! The network between a service and its Redis: a proxy that can be cut and healed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::watch;

use super::free_address;
use crate::harness::eventually;

/// A link to a server. Dropping it ends all connections.
pub struct Link {
    /// Where the server is reached by it.
    pub address: SocketAddr,
    wire: watch::Sender<Wire>,
    traffic: Arc<Traffic>,
}

/// How a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing arrives any more and nobody is told, on open connections and on new ones. What was held up goes on its
    /// way once the link is healed.
    Silent,
    /// Open connections are reset, new ones refused.
    Reset,
}

#[derive(Clone, Copy, Default)]
struct Wire {
    cut: Option<Cut>,
    /// Connections with a lower number are silent for good.
    lost_before: usize,
}

impl Wire {
    fn carries(&self, number: usize) -> bool {
        self.cut.is_none() && number >= self.lost_before
    }
}

#[derive(Default)]
struct Traffic {
    listening: AtomicBool,
    /// Connections open now.
    open: AtomicUsize,
    /// Connections so far, and so the number of the next one.
    accepted: AtomicUsize,
}

impl Link {
    /// A link to the server at this address, which need not be there yet.
    #[track_caller]
    pub fn to(server: SocketAddr) -> Link {
        let address = free_address();
        let (wire, watcher) = watch::channel(Wire::default());
        let traffic = Arc::<Traffic>::default();
        let seen = Arc::clone(&traffic);
        // On a thread of its own, since tests wait without letting their runtime run. It ends with `wire`.
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(address, server, watcher, seen));
        });
        let link = Link { address, wire, traffic };
        link.heal();
        link
    }

    /// What a client is told.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Cuts it.
    #[track_caller]
    pub fn cut(&self, how: Cut) {
        self.wire.send_modify(|wire| wire.cut = Some(how));
        if how == Cut::Reset {
            eventually("nobody is connected", || {
                let traffic = &self.traffic;
                let quiet = !traffic.listening.load(Ordering::SeqCst) && self.open() == 0;
                quiet.then_some(())
            });
        }
    }

    /// All is as it was before the cut.
    #[track_caller]
    pub fn heal(&self) {
        self.wire.send_modify(|wire| wire.cut = None);
        eventually("the link is there", || self.traffic.listening.load(Ordering::SeqCst).then_some(()));
    }

    /// Open connections are silent for good, as when a firewall has forgotten them; new ones are not.
    pub fn forget_connections(&self) {
        let number = self.traffic.accepted.load(Ordering::SeqCst);
        self.wire.send_modify(|wire| wire.lost_before = number);
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.traffic.open.load(Ordering::SeqCst)
    }
}

async fn serve(address: SocketAddr, server: SocketAddr, mut wire: watch::Receiver<Wire>, traffic: Arc<Traffic>) {
    let mut listener = None;
    loop {
        if wire.borrow_and_update().cut == Some(Cut::Reset) {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("an address of our own"));
        }
        traffic.listening.store(listener.is_some(), Ordering::SeqCst);
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wire.changed() => if changed.is_err() { return },
            accepted = accept => if let Ok((near, _)) = accepted {
                let number = traffic.accepted.fetch_add(1, Ordering::SeqCst);
                traffic.open.fetch_add(1, Ordering::SeqCst);
                let (wire, traffic) = (wire.clone(), Arc::clone(&traffic));
                tokio::spawn(async move {
                    connect(near, server, number, wire).await;
                    traffic.open.fetch_sub(1, Ordering::SeqCst);
                });
            },
        }
    }
}

/// One connection, from its beginning to its end.
async fn connect(mut near: TcpStream, server: SocketAddr, number: usize, mut wire: watch::Receiver<Wire>) {
    let mut cuts = wire.clone();
    let end = tokio::select! {
        _ = cuts.wait_for(|wire| wire.cut == Some(Cut::Reset)) => Err(io::ErrorKind::ConnectionReset.into()),
        end = carry(&mut near, server, number, &mut wire) => end,
    };
    if end.is_err() {
        // Closing it is a reset now, and not an end in order.
        let _ = near.set_zero_linger();
    }
}

/// Carries what comes from either end to the other, until one of them has ended.
async fn carry(
    near: &mut TcpStream,
    server: SocketAddr,
    number: usize,
    wire: &mut watch::Receiver<Wire>,
) -> io::Result<()> {
    let _ = wire.wait_for(|wire| wire.carries(number)).await;
    let mut far = TcpStream::connect(server).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
    tokio::select! {
        end = pass(from_near, to_far, number, wire.clone()) => end,
        end = pass(from_far, to_near, number, wire.clone()) => end,
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    number: usize,
    mut wire: watch::Receiver<Wire>,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let n = from.read(&mut bytes).await?;
        // An end is held up by a cut, like anything else; only what is lost for good waits for nothing.
        let goes_on = |wire: &Wire| wire.carries(number) || number < wire.lost_before;
        let lost = wire.wait_for(goes_on).await.map(|wire| !wire.carries(number));
        match lost {
            Ok(true) if n > 0 => continue,
            Ok(false) if n > 0 => {}
            Ok(_) | Err(_) => return Ok(()),
        }
        to.write_all(&bytes[..n]).await?;
    }
}

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::access::{Access, Origin};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::queue::Queue;
use crate::service::Service;
use crate::stop::Stop;
use crate::token::Token;
use crate::worker::Worker;

/// The next request's head must have come by then; also how long an idle connection is kept.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);

/// Most bytes of a request's head, and of a body that lie in memory unread.
const BUFFER_BYTES: usize = 64 << 10;

/// Most connections at a time. Further ones wait until one is closed.
const CONNECTIONS: usize = 256;

/// How long nothing is accepted after the system refused a connection, as it does when there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// How a server listens, and to whom.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What requests must bring.
    pub token: Option<Token>,
    /// Sites whose pages may ask.
    pub allowed_origins: Vec<Origin>,
    /// Requests that may wait while one is written.
    pub waiting: usize,
    /// Most bytes of a request.
    pub max_request_bytes: u64,
}

impl Default for Settings {
    /// Port 8080 of this machine, reached from nowhere else.
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 8080).into(),
            token: None,
            allowed_origins: Vec::new(),
            waiting: 4,
            max_request_bytes: 64 << 20,
        }
    }
}

/// A port that is listened on.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    settings: Settings,
}

impl Server {
    /// Takes the port. Who connects from now on waits for [`run`](Self::run).
    ///
    /// # Errors
    /// Other machines reach the address and there is no token, or the port cannot be had.
    pub fn bind(settings: Settings) -> Result<Self> {
        let address = settings.address;
        if !address.ip().is_loopback() && settings.token.is_none() {
            return Err(Error::NoToken { address });
        }
        let listener = TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, settings })
    }

    /// Where it listens, with the port that was found.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers until `stop` says otherwise and the text that is being written then is whole. Needs a runtime of tokio with
    /// input, output and time; one thread is enough, since a thread of its own writes.
    ///
    /// # Errors
    /// The system refuses a thread, or the thread that writes has failed.
    pub async fn run(self, model: Model, stop: Stop) -> Result<()> {
        let Settings {
            address,
            token,
            allowed_origins,
            waiting,
            max_request_bytes,
        } = self.settings;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let (jobs, inbox) = mpsc::channel();
        let service = Arc::new(Service::new(
            Access::new(address.ip(), token, allowed_origins),
            Queue::new(jobs, waiting, stop.clone()),
            model.id(),
            model.context_length(),
            max_request_bytes,
        ));
        let writing = std::thread::Builder::new()
            .name("writing".to_owned())
            .spawn(move || Worker::new(model).run(inbox))?;
        let mut connections = accept(&listener, &service, &stop).await;
        drop(listener);
        tokio::select! {
            () = stop.ending() => connections.shutdown().await,
            () = async { while connections.join_next().await.is_some() {} } => {}
        }
        // With the last sender of jobs gone, the thread ends after the text that it is at, which is cancelled by now.
        drop(service);
        writing.join().map_err(|_| Error::Worker)
    }
}

/// Takes connections until no further text may begin. Returns those that are still open.
async fn accept(listener: &tokio::net::TcpListener, service: &Arc<Service>, stop: &Stop) -> JoinSet<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Those that are closed.
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = stop.finishing() => return connections,
            next = next => match next {
                (Ok(place), Ok((stream, _))) => {
                    connections.spawn(serve(stream, place, Arc::clone(service), stop.clone()));
                }
                _ => tokio::time::sleep(PAUSE).await,
            },
        }
    }
}

/// Answers the requests of one connection. As soon as its client has closed it, hyper drops the answer that is being made, and
/// that cancels the writing.
async fn serve(stream: TcpStream, _place: OwnedSemaphorePermit, service: Arc<Service>, stop: Stop) {
    // Pieces of text are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let respond = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { service.respond(request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), respond);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A connection that breaks off is nobody's failure here.
        _ = connection.as_mut() => return,
        () = stop.finishing() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

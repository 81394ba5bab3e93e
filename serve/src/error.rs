use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The result of everything here that can fail before requests are answered.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a server cannot start or go on. What a request did wrong is told to who sent it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Other machines could ask, and anybody would be answered.
    #[error(
        "`{address}` is reached from other machines, where anybody could use the model; give a token (`--token-file FILE` or \
         `LWV_SERVE_TOKEN`), or listen on 127.0.0.1"
    )]
    NoToken {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The port is taken, or the address is not this machine's.
    #[error("cannot listen on `{address}`: {source}; choose another one with `--listen`")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A token that is none.
    #[error("the token cannot be used: {reason}")]
    Token {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A token's file that cannot be read.
    #[error("cannot read the token `{}`: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// An origin that is none.
    #[error("`{origin}` is no origin that can be allowed: {reason}")]
    Origin {
        /// What was given.
        origin: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The bundle has no chat template.
    #[error(
        "the bundle has no chat template, so it cannot answer chats; export a checkpoint of a chat model"
    )]
    NoChatTemplate,
    /// A session cannot be made.
    #[error(transparent)]
    Runtime(#[from] lwv_runtime::Error),
    /// The system refuses a thread or a socket.
    #[error("cannot serve: {0}")]
    Io(#[from] io::Error),
    /// The thread that writes has ended by a fault of the program.
    #[error("the thread that writes has ended unexpectedly; its message stands above")]
    Worker,
}

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use lwv_serve::{Origin, Settings, TOKEN_VARIABLE, Token};
use lwv_write::EngineOptions;

const EXAMPLES: &str = "\
Examples:
  Serve a bundle on this machine; in an editor, set the base address to http://127.0.0.1:8080/v1 and any key:
    lwv-serve bundle

  Ask it:
    curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' -d '{
      \"messages\": [{\"role\": \"user\", \"content\": \"Why do lighthouses flash?\"}], \"stream\": true}'

  Have 2000 words planned and written, section by section:
    curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' -d '{
      \"messages\": [{\"role\": \"user\", \"content\": \"An article about tea\"}], \"stream\": true,
      \"lwv\": {\"words\": 2000, \"plan\": true}}'

  Serve other machines, who must bring a token as their API key:
    (umask 077; openssl rand -hex 32 > token)
    lwv-serve bundle --listen 0.0.0.0:8080 --token-file token

What a request does not say is as in lwv-write, but for the seed, which is another one each time. Fields that would change
the text and are not known are refused. The connection is not encrypted.";

/// Answers OpenAI's chat completions from a bundle, so that editors that speak that protocol write with it.
#[derive(Debug, Parser)]
#[command(name = "lwv-serve", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder of the bundle, as lwv-export writes it.
    pub(crate) bundle: PathBuf,

    /// Where to listen; port 0 takes a free one. Addresses that other machines reach need a token.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// File with the token that requests must bring; without it, LWV_SERVE_TOKEN is the token if it is set.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A site whose pages may ask, such as http://localhost:3000; may be given again.
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<Origin>,
    /// Requests that may wait while one is written; those beyond are refused.
    #[arg(long, value_name = "N", default_value_t = Settings::default().waiting)]
    queue: usize,
    /// Most of a request, pictures included, in MiB.
    #[arg(long, value_name = "N", default_value_t = Settings::default().max_request_bytes >> 20,
        value_parser = clap::value_parser!(u64).range(1..=1024))]
    max_request_mib: u64,
    /// What clients call the model; by default the bundle's folder.
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,
}

impl Arguments {
    /// How to listen.
    pub(crate) fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            address: self.listen,
            token: self.token()?,
            allowed_origins: self.allow_origin.clone(),
            waiting: self.queue,
            max_request_bytes: self.max_request_mib << 20,
        })
    }

    /// The model's name.
    pub(crate) fn model_name(&self) -> Result<String> {
        if let Some(name) = &self.model_name {
            return Ok(name.clone());
        }
        let folder = self.bundle.canonicalize();
        let folder = folder.with_context(|| format!("cannot find `{}`", self.bundle.display()))?;
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        name.context("the bundle's folder has no name; give the model one with `--model-name`")
    }

    fn token(&self) -> Result<Option<Token>> {
        if let Some(path) = &self.token_file {
            let token = Token::from_file(path);
            return Ok(Some(
                token.with_context(|| format!("`--token-file {}`", path.display()))?,
            ));
        }
        // An empty variable is no token that somebody wanted to set, and must not open a port.
        match std::env::var_os(TOKEN_VARIABLE) {
            Some(text) => Ok(Some(Token::new(&text.to_string_lossy()).context(TOKEN_VARIABLE)?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn nothing_is_open_unless_asked_for() {
        let arguments = Arguments::try_parse_from(["lwv-serve", "bundle"]).unwrap();
        let settings = arguments.settings().unwrap();
        assert!(settings.address.ip().is_loopback() && settings.allowed_origins.is_empty());
        let wrong = |more: &[&str]| {
            Arguments::try_parse_from(["lwv-serve", "bundle"].iter().chain(more)).unwrap_err()
        };
        assert!(wrong(&["--allow-origin", "*"]).to_string().contains("anybody"));
        assert_eq!(wrong(&["--listen", "8080"]).exit_code(), 2);
    }

    #[test]
    fn a_token_file_that_holds_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "short\n").unwrap();
        let file = file.to_str().unwrap();
        let arguments = Arguments::try_parse_from(["lwv-serve", "bundle", "--token-file", file]).unwrap();
        let error = format!("{:#}", arguments.settings().unwrap_err());
        assert!(error.contains(file) && error.contains("openssl"), "{error}");
    }
}

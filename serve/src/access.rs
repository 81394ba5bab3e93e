use std::net::IpAddr;
use std::str::FromStr;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use crate::error::Error;
use crate::refusal::Refusal;
use crate::token::Token;

/// Where a browser says that a request comes from (Fetch Metadata, W3C).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who may ask.
///
/// A page in the user's browser reaches this machine's ports too. So pages are refused by what browsers say of them, except
/// origins that were allowed; and a name that a page's owner lets point to this machine (DNS rebinding) is no name of ours.
#[derive(Debug)]
pub(crate) struct Access {
    token: Option<Token>,
    allowed_origins: Vec<Origin>,
    /// Whether only this machine is listened to, which has no other names than that.
    loopback: bool,
}

/// A site whose pages may ask, as browsers name it: `scheme://host` or `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = Error;

    /// Reads an origin. `*` and `null`, which stand for anybody, are none.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |reason| {
            Err(Error::Origin {
                origin: text.to_owned(),
                reason,
            })
        };
        let Some((scheme, host)) = text.split_once("://") else {
            return refused(
                "it must look like `http://localhost:3000` or `app://name`; `*` and `null` stand for anybody",
            );
        };
        if scheme.is_empty() || host.is_empty() || host.contains(['/', '?', '#', '*']) {
            return refused("it must be a scheme and a host, with nothing behind them");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl Access {
    /// What is asked for where `address` is listened on.
    pub(crate) fn new(address: IpAddr, token: Option<Token>, allowed_origins: Vec<Origin>) -> Self {
        Self {
            token,
            allowed_origins,
            loopback: address.is_loopback(),
        }
    }

    /// Refuses a request that is not meant for this server, or that a page of a foreign site makes.
    pub(crate) fn check_sender(&self, request: &Parts) -> Result<(), Refusal> {
        if self.loopback && !hosts(request).is_some_and(|hosts| hosts.iter().all(is_this_machine)) {
            let message = "the header `Host` names another machine; ask for `localhost` or 127.0.0.1";
            return Err(forbidden("host_not_allowed", message));
        }
        match request.headers.get(ORIGIN) {
            Some(origin) if !self.allows(origin) => {
                let origin = String::from_utf8_lossy(origin.as_bytes());
                let message = format!("pages of `{origin}` may not ask; `--allow-origin` lets them");
                Err(forbidden("origin_not_allowed", message))
            }
            None if is_of_a_foreign_page(request) => Err(forbidden(
                "origin_not_allowed",
                "pages of other sites may not ask",
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a request without the token, if there is one.
    pub(crate) fn check_token(&self, request: &Parts) -> Result<(), Refusal> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        let brought = request.headers.get(AUTHORIZATION);
        if brought.is_some_and(|value| token.is_in(value.as_bytes())) {
            return Ok(());
        }
        let message = "the token is missing or wrong; send it as `Authorization: Bearer …`, which clients call the API key";
        Err(Refusal::request(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            message,
        ))
    }

    /// The request's origin, if it is one of those that are allowed.
    pub(crate) fn allowed_origin(&self, request: &Parts) -> Option<HeaderValue> {
        let origin = request.headers.get(ORIGIN)?;
        self.allows(origin).then(|| origin.clone())
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let is_it = |allowed: &Origin| allowed.0.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
        self.allowed_origins.iter().any(is_it)
    }
}

fn forbidden(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::request(StatusCode::FORBIDDEN, code, message)
}

/// What the request says whom it is for; nothing where it does not say, or cannot be read.
fn hosts(request: &Parts) -> Option<Vec<Authority>> {
    let mut named = request
        .headers
        .get_all(HOST)
        .iter()
        .map(|host| host.to_str().ok()?.parse().ok());
    let host = named.next()??;
    let others = named.chain(request.uri.authority().cloned().map(Some));
    std::iter::once(Some(host)).chain(others).collect()
}

/// Names of this machine that no name server is asked for.
fn is_this_machine(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Browsers name no origin where a page only loads something, such as a picture; then they say this.
fn is_of_a_foreign_page(request: &Parts) -> bool {
    let site = request.headers.get(FETCH_SITE);
    site.is_some_and(|site| site != "none" && site != "same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn request(headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn local(origins: &[&str]) -> Access {
        let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        Access::new(Ipv4Addr::LOCALHOST.into(), None, origins)
    }

    #[test]
    fn only_names_of_this_machine_are_answered_to() {
        let access = local(&[]);
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "[::1]:8080",
            "127.1.2.3",
        ] {
            assert_eq!(access.check_sender(&request(&[("host", host)])), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8080",
            "192.168.0.7",
            "0.0.0.0",
            "",
            "a b",
        ] {
            assert!(
                access.check_sender(&request(&[("host", host)])).is_err(),
                "{host}"
            );
        }
        assert!(access.check_sender(&request(&[])).is_err());
        let two = request(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(access.check_sender(&two).is_err());
        // Others know this machine by names that are not known here; they need the token.
        let open = Access::new(Ipv6Addr::UNSPECIFIED.into(), None, Vec::new());
        assert_eq!(open.check_sender(&request(&[("host", "box.lan:8080")])), Ok(()));
    }

    #[test]
    fn pages_are_refused_unless_their_site_is_allowed() {
        let access = local(&["http://localhost:3000", "app://obsidian.md"]);
        let of = |more: (&'static str, &'static str)| {
            access.check_sender(&request(&[("host", "localhost"), more]))
        };
        for allowed in [
            ("origin", "http://localhost:3000"),
            ("origin", "app://Obsidian.md"),
            ("sec-fetch-site", "none"),
        ] {
            assert_eq!(of(allowed), Ok(()), "{allowed:?}");
        }
        let refused = [
            ("origin", "http://localhost:3001"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", ""),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ];
        for refused in refused {
            assert!(of(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn anybody_is_no_origin() {
        for text in [
            "*",
            "null",
            "",
            "localhost",
            "http://",
            "http://*",
            "http://a/",
            "http://a/b",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_one() {
        let token = Token::new("0123456789abcdef").unwrap();
        let access = Access::new(Ipv4Addr::LOCALHOST.into(), Some(token), Vec::new());
        let with = |value: &str| access.check_token(&request(&[("authorization", value)]));
        assert_eq!(with("Bearer 0123456789abcdef"), Ok(()));
        assert!(with("Bearer 0123456789abcdeF").is_err() && access.check_token(&request(&[])).is_err());
        assert_eq!(local(&[]).check_token(&request(&[])), Ok(()));
    }
}

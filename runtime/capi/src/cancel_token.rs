use lwv_runtime::CancelToken;

use crate::argument::{clear, close, open, optional, required};
use crate::border::call;
use crate::failure::Result;
use crate::status::lwv_status;

/// Stops loading, image encoding, prefill and writing from another thread. What uses it holds it too, so it can be closed
/// at any time.
pub struct lwv_cancel_token {
    token: CancelToken,
}

/// The token behind a field, or one of its own where the caller gave none.
pub(crate) unsafe fn token_of(given: *const lwv_cancel_token) -> Result<CancelToken> {
    Ok(optional(given, "cancel")?.map_or_else(CancelToken::new, |given| given.token.clone()))
}

/// Makes a token that nobody has cancelled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_cancel_token_open(token: *mut *mut lwv_cancel_token) -> lwv_status {
    call(|| {
        clear(token, "token")?;
        open(
            lwv_cancel_token {
                token: CancelToken::new(),
            },
            token,
        );
        Ok(())
    })
}

/// Cancels, for good: what runs under the token ends within a fraction of a second, what is begun with it ends at once. From
/// any thread, at any time, more than once; not from a signal handler, since it takes a lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_cancel_token_cancel(token: *mut lwv_cancel_token) -> lwv_status {
    call(|| {
        required(token, "token")?.token.cancel();
        Ok(())
    })
}

/// 1 if the token was cancelled, else 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_cancel_token_is_cancelled(token: *const lwv_cancel_token) -> i32 {
    let mut cancelled = false;
    call(|| {
        cancelled = required(token, "token")?.token.is_cancelled();
        Ok(())
    });
    i32::from(cancelled)
}

/// Frees a token. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_cancel_token_close(token: *mut lwv_cancel_token) {
    call(|| close(token, "token"));
}

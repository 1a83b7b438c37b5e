//! Frames of a WebSocket that are whole texts, as servers send them: without a mask
//! (RFC 6455, 5.2).

/// Their first byte.
pub(crate) const TEXT_FRAME: u8 = 0x81;

/// A longer frame has its length behind the second byte.
pub(crate) const SHORT_MAX: usize = 125;

/// The longest head.
pub(crate) const HEAD_MAX: usize = 10;

/// The head of a frame with so many bytes, and how long it is.
pub(crate) fn head(payload: usize) -> ([u8; HEAD_MAX], usize) {
    let mut head = [0; HEAD_MAX];
    head[0] = TEXT_FRAME;
    let length = match u16::try_from(payload) {
        Ok(short) if usize::from(short) <= SHORT_MAX => {
            head[1] = short as u8;
            2
        }
        Ok(long) => {
            head[1] = 126;
            head[2..4].copy_from_slice(&long.to_be_bytes());
            4
        }
        Err(_) => {
            head[1] = 127;
            head[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            HEAD_MAX
        }
    };
    (head, length)
}

/// A WebSocket frame with this text, as a server sends it: for
/// [`ClientHandle::send_now`](crate::ClientHandle::send_now).
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    let (head, length) = head(text.len());
    [&head[..length], text].concat()
}

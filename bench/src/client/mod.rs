//! A Socket.IO client that costs little: Engine.IO 4 and Socket.IO 5 as text,
//! over polling, WebSocket, or the upgrade from one to the other.

pub(crate) mod chat;
pub(crate) mod http;
pub(crate) mod packet;
pub(crate) mod polling;
pub(crate) mod room;
pub(crate) mod target;
pub(crate) mod websocket;

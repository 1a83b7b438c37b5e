// A chat user on a bare WebSocket: the protocol is plain text, and a full client would cost more than the server.
import { WebSocket } from 'ws';

/**
 * Logs in to `ws://host:port` with these credentials. `onMessage(message)` is called for each private message, the object that the
 * server sent. Resolves with `{userID, send(to, id, content, onAck), close()}`.
 */
export function logIn({ host, port, auth, onMessage }) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(`ws://${host}:${port}/socket.io/?EIO=4&transport=websocket`, { perMessageDeflate: false });
    const acks = new Map();
    let nextAck = 0;
    let userID;
    const user = {
      get userID() {
        return userID;
      },
      send(to, id, content, onAck) {
        acks.set(nextAck, onAck);
        ws.send(`42${nextAck++}["private message",${JSON.stringify({ content, to, id })}]`);
      },
      close: () => ws.terminate(),
    };
    ws.once('error', reject);
    ws.on('message', (packet) => {
      const text = packet.toString();
      if (text.startsWith('43')) {
        const start = text.indexOf('[');
        const ack = Number(text.slice(2, start));
        acks.get(ack)(JSON.parse(text.slice(start))[0]);
        acks.delete(ack);
      } else if (text.startsWith('42["private message"')) onMessage(JSON.parse(text.slice(2))[1]);
      else if (text.startsWith('42["session"')) userID = JSON.parse(text.slice(2))[1].userID;
      else if (text.startsWith('42["users"')) resolve(user);
      else if (text.startsWith('44')) reject(new Error(text));
      else if (text[0] === '0') ws.send(`40${JSON.stringify(auth)}`);
      else if (text === '2') ws.send('3');
    });
  });
}

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { LobbySocket } from '../connection/sockets';
import { ReadMarks } from '../reading/readMarks';
import { FakeSocket } from '../testing/fakeSocket';
import { memoryStorage } from '../testing/memoryStorage';
import { Lobby } from './lobby';

const line = (id: string, at: number, user = 'bob') => ({ action: 'message', user, msg: `says ${id}`, id, at });

describe('the lobby', () => {
  let socket: FakeSocket;
  let lobby: Lobby;

  function load(): void {
    const me = { user: 'ada', userID: 'a1' };
    socket = new FakeSocket();
    lobby = new Lobby(socket as unknown as LobbySocket, me, new ReadMarks(me.userID));
  }

  async function connect(...kept: unknown[]): Promise<void> {
    socket.answer = (event) => (event === 'join' ? Promise.resolve(kept) : new Promise(() => undefined));
    socket.tell('connect');
    await vi.advanceTimersByTimeAsync(0);
  }

  const ids = () => lobby.timeline.messages.map(({ id }) => id);
  const lastJoin = () => socket.requests.findLast(({ event }) => event === 'join')?.payload;
  const ownText = () => lobby.timeline.messages.filter(({ own }) => own).map(({ text }) => text);

  beforeEach(() => {
    vi.useFakeTimers();
    vi.stubGlobal('localStorage', memoryStorage());
    vi.stubGlobal('sessionStorage', memoryStorage());
    vi.stubGlobal('window', new EventTarget());
    load();
  });

  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  test('a tab joins as new once, and then asks for what it missed', async () => {
    await connect(line('x', 10_000), line('y', 20_000));
    expect(lastJoin()).toEqual({});
    socket.tell('chat', { action: 'control', user: 'bob', msg: 'joined the lobby', id: 'c', at: 30_000 });
    socket.tell('chat', { user: 'ci', msg: 'from elsewhere' });
    socket.tell('disconnect');
    // What was said about the same time as the newest may have come in another order.
    await connect(line('y', 20_000), line('z', 40_000));
    expect(lastJoin()).toEqual({ after: 'x' });
    expect(ids()).toEqual(['x', 'y', 'c', null, 'z']);

    load();
    await connect(line('x', 10_000), line('y', 20_000), line('z', 40_000));
    expect(lastJoin()).toEqual({ after: null });
    expect(ids()).toEqual(['x', 'y', 'z']);
  });

  test('what is heard before the server has told what was missed does not hide that', async () => {
    await connect(line('x', 10_000), line('y', 20_000));
    socket.tell('disconnect');
    socket.answer = () => Promise.resolve({ ok: false, error: { code: 'unavailable' } });
    socket.tell('connect');
    socket.tell('chat', line('live', 40_000));
    await vi.advanceTimersByTimeAsync(2_000);
    expect(lastJoin()).toEqual({ after: 'x' });
    socket.tell('disconnect');
    await connect(line('y', 20_000), line('missed', 30_000), line('live', 40_000));
    expect(lastJoin()).toEqual({ after: 'x' });
    expect(ids()).toEqual(['x', 'y', 'missed', 'live']);
  });

  test('asks again until the server can tell', async () => {
    let tries = 0;
    socket.answer = () => Promise.resolve(++tries < 3 ? { ok: false, error: { code: 'unavailable' } } : [line('x', 1)]);
    socket.tell('connect');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(tries).toBe(3);
    expect(ids()).toEqual(['x']);
  });

  test('what was said before one came is not unread, what is said then is', async () => {
    await connect(line('x', 1), line('y', 2));
    expect(lobby.unread.value).toBe(0);
    socket.tell('chat', line('z', 3));
    expect(lobby.unread.value).toBe(1);
    lobby.markRead();
    expect(lobby.unread.value).toBe(0);
  });

  test('own messages are those of this tab, after a refresh as well', async () => {
    await connect();
    lobby.send('hello');
    const { id } = socket.requests.at(-1)?.payload as { id: string };
    const heard = { ...line(id, 5, 'ada'), msg: 'hello' };
    socket.tell('chat', heard);
    socket.tell('chat', { ...line('other', 6, 'ada'), msg: 'of another ada' });
    await vi.advanceTimersByTimeAsync(100);
    expect(ownText()).toEqual(['hello']);
    expect(lobby.timeline.messages.map(({ delivery }) => delivery.state)).toEqual(['stored', 'stored']);

    load();
    await connect(heard);
    expect(ownText()).toEqual(['hello']);
  });

  test('what is unsent survives a refresh and is there once', async () => {
    lobby.send('hello');
    load();
    expect(ownText()).toEqual(['hello']);
    await connect();
    const { id } = socket.requests.at(-1)?.payload as { id: string };
    socket.tell('disconnect');
    await connect({ ...line(id, 5, 'ada'), msg: 'hello' });
    expect(lobby.timeline.messages).toMatchObject([{ id, own: true, delivery: { state: 'stored' } }]);
    load();
    expect(ids()).toEqual([]);
  });
});

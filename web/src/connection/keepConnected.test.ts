import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FakeSocket } from '../testing/fakeSocket';
import { keepConnected } from './keepConnected';

describe('a socket that is kept connected', () => {
  let socket: FakeSocket;
  let loggedIn: boolean;
  let questions: number;
  let end: () => void;

  beforeEach(() => {
    vi.useFakeTimers();
    socket = new FakeSocket();
    loggedIn = true;
    questions = 0;
    end = keepConnected(socket, {
      loginIsOver: 'not logged in',
      stillLoggedIn: () => {
        questions += 1;
        return Promise.resolve(loggedIn);
      },
    });
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  async function later(milliseconds = 5_000): Promise<void> {
    await vi.advanceTimersByTimeAsync(milliseconds);
  }

  test('connects again after the server was not able to', async () => {
    socket.tell('connect_error', new Error('unavailable'));
    await later();
    expect([socket.connects, questions]).toEqual([1, 0]);
  });

  test('waits longer after each failure', async () => {
    for (let failure = 0; failure < 6; failure += 1) {
      socket.tell('connect_error', new Error('unavailable'));
      await later();
    }
    socket.tell('connect_error', new Error('unavailable'));
    await later(2_000);
    expect(socket.connects).toBe(6);
  });

  test('leaves lost connections to the Manager', async () => {
    socket.active = true;
    socket.tell('connect_error', new Error('xhr poll error'));
    socket.tell('disconnect', 'transport close');
    await later();
    expect([socket.connects, questions]).toEqual([0, 0]);
  });

  test.each([
    ['connect_error', new Error('not logged in')],
    ['disconnect', 'io server disconnect'],
  ])('asks after %s whether the session is over', async (event, reason) => {
    socket.tell(event, reason);
    await later();
    expect([socket.connects, questions]).toEqual([1, 1]);
    loggedIn = false;
    socket.tell(event, reason);
    await later();
    expect([socket.connects, questions]).toEqual([1, 2]);
  });

  test('does nothing after its end', async () => {
    socket.tell('disconnect', 'io server disconnect');
    end();
    await later();
    socket.tell('connect_error', new Error('unavailable'));
    await later();
    expect(socket.connects).toBe(0);
  });
});

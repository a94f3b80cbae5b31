import { endsTurn, follow, type Patience } from './events.js'
import { createClient, createConfig } from './gen/client/index.js'
import { Operations } from './gen/sdk.gen.js'
import type {
  Agent,
  Event,
  EventPage,
  ListAgentsData,
  ListMessagesData,
  ListSessionsData,
  ListSkillsData,
  ListSkillVersionsData,
  MessageCreate,
  SendMessageData,
  Session,
  Skill,
  StreamEventsData,
  StreamMessageData,
  TranscriptMessage,
  Turn,
} from './gen/types.gen.js'
import { dialSocket, type Size, type Socket, type SocketConstructor, type Take, Terminal } from './terminal.js'
import { newKey, type Retry, sleep, Transport } from './transport.js'

export interface LapOptions extends Partial<Retry>, Partial<Patience> {
  /** Where the server is. */
  url: string
  /** The server's master key. It is sent in a header, never in a URL. */
  key: string
  /** Milliseconds until an answer must have come, or begun if it is a stream. Default 60,000. */
  timeout?: number
  /** Default: that of the runtime. */
  fetch?: typeof globalThis.fetch
  /** For terminals. Default: that of the runtime, which Node has from version 22 on. */
  WebSocket?: SocketConstructor
}

export interface CallOptions {
  signal?: AbortSignal
}

export interface SendOptions extends CallOptions {
  /** Names the turn. A new one by default; give one to join a turn that another process has begun. */
  idempotencyKey?: string
}

/** Queries of lists, without what the iteration itself fills in. */
type Query<D extends { query?: object }> = Omit<NonNullable<D['query']>, 'cursor' | 'offset' | 'total'>

/** These are written by hand below, because they go on for longer than a request. */
type Streaming = 'openTerminal' | 'sendMessage' | 'streamEvents' | 'streamMessage'

/**
 * A client of the LAP API: every operation by its `operationId`, lists as iterators, events, messages and terminals. Answers that are
 * not a success are thrown as `LapError`, missing ones as `ConnectionError`.
 */
export class Lap extends (Operations as new (args: ConstructorParameters<typeof Operations>[0]) => Omit<Operations, Streaming>) {
  readonly #transport: Transport
  readonly #patience: Patience
  readonly #request: (url: string, init: Init) => Request
  readonly #url: string
  readonly #timeout: number
  readonly #WebSocket: SocketConstructor | undefined

  constructor(options: LapOptions) {
    const { key, fetch, timeout = 60_000, retries = 4, firstPause = 250, maxPause = 30_000 } = options
    const url = options.url.replace(/\/+$/, '')
    const transport = new Transport({ retries, firstPause, maxPause }, timeout, fetch ?? globalThis.fetch)
    super({
      client: createClient(
        createConfig({ baseUrl: url, auth: () => key, throwOnError: true, fetch: (request) => transport.send(request as Request) }),
      ),
    })
    this.#transport = transport
    this.#patience = { silence: options.silence ?? 45_000, patience: options.patience ?? 120_000 }
    this.#url = url
    this.#timeout = timeout
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket
    this.#request = (path, init) => new Request(url + path, { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } })
  }

  /** All agents, newest first unless the query says otherwise. */
  agents(query: Query<ListAgentsData> = {}, options: CallOptions = {}): AsyncGenerator<Agent, void> {
    return pages((page) => this.listAgents({ ...options, query: { ...query, ...page } }))
  }

  /** All sessions, newest first. */
  sessions(query: Query<ListSessionsData> = {}, options: CallOptions = {}): AsyncGenerator<Session, void> {
    return pages((page) => this.listSessions({ ...options, query: { ...query, ...page } }))
  }

  /** All skills of the library, newest first. */
  skills(query: Query<ListSkillsData> = {}, options: CallOptions = {}): AsyncGenerator<Skill, void> {
    return pages((page) => this.listSkills({ ...options, query: { ...query, ...page } }))
  }

  /** All versions of a skill, newest first. */
  skillVersions(skill_id: string, query: Query<ListSkillVersionsData> = {}, options: CallOptions = {}): AsyncGenerator<Skill, void> {
    return pages((page) => this.listSkillVersions({ ...options, path: { skill_id }, query: { ...query, ...page } }))
  }

  /** The transcript of a session, oldest message first. */
  messages(
    session_id: string,
    query: Query<ListMessagesData> = {},
    options: CallOptions = {},
  ): AsyncGenerator<TranscriptMessage, void> {
    return pages((page) => this.listMessages({ ...options, path: { session_id }, query: { ...query, ...page } }))
  }

  /**
   * The events of a session after a cursor, then live; those that break off go on where they were. They do not end, for a session that
   * has ended can be restarted: leave the loop when you have seen enough.
   */
  streamEvents(sessionId: string, { after = 0, signal }: CallOptions & { after?: number } = {}): AsyncGenerator<Event, void> {
    return follow(this.#transport, this.#patience, {
      open: (after, signal) => this.#events(sessionId, after, signal),
      after,
      signal,
    })
  }

  /** The events that there are after a cursor. */
  async *events(sessionId: string, { after = 0, signal }: CallOptions & { after?: number } = {}): AsyncGenerator<Event, void> {
    for (let more = true; more; ) {
      const path = `${at(eventsURL, sessionId)}?after=${after}&follow=false&limit=1000`
      const response = await this.#transport.send(this.#request(path, { signal }))
      const page = (await response.json()) as EventPage
      yield* page.data
      after = page.next_after
      more = page.has_more
    }
  }

  /**
   * Sends a message and yields the events of its turn, to the end. If the stream breaks it goes on where it was; the message is sent
   * once. The turn goes on if you leave the loop. `textOf` makes text of the events.
   */
  async *streamMessage(sessionId: string, message: string | MessageCreate, options: SendOptions = {}): AsyncGenerator<Event, void> {
    const { idempotencyKey = newKey(), signal } = options
    let turn: string | null = null
    // Until the turn is known, the key joins it. Then the cursor does, and nothing is read again.
    const open = (after: number, signal: AbortSignal) =>
      turn
        ? this.#events(sessionId, after, signal)
        : this.#post(at(streamURL, sessionId), message, { 'Idempotency-Key': idempotencyKey }, signal)
    for await (const event of follow(this.#transport, this.#patience, { open, after: 0, signal })) {
      turn ??= event.turn_id
      if (event.turn_id !== turn) continue
      yield event
      if (endsTurn(event)) return
    }
  }

  /** Sends a message and returns its turn when that has ended: `turn.status` and `turn.info.error` say how, `turn.parts` is the reply. */
  async sendMessage(sessionId: string, message: string | MessageCreate, options: SendOptions = {}): Promise<Turn> {
    let turn_id = ''
    for await (const event of this.streamMessage(sessionId, message, options)) turn_id = event.turn_id ?? turn_id
    return this.getTurn({ path: { session_id: sessionId, turn_id }, signal: options.signal })
  }

  /** Sends a message and returns its turn at once; `getTurn` has the reply when the turn has ended. */
  async queueMessage(sessionId: string, message: string | MessageCreate, options: SendOptions = {}): Promise<Turn> {
    const headers = { Prefer: 'respond-async', 'Idempotency-Key': options.idempotencyKey ?? newKey() }
    const response = await this.#transport.send(this.#post(at(messageURL, sessionId), message, headers, options.signal))
    return (await response.json()) as Turn
  }

  /** Attaches to the terminal of a session when that is ready. */
  openTerminal(sessionId: string, options: CallOptions & Partial<Size> = {}): Promise<Terminal> {
    const { cols = 80, rows = 24, signal } = options
    const terminal = new Terminal(
      (size, take) => this.#dial(sessionId, size, take, signal),
      { ...this.#transport.retry, ...this.#patience },
      { cols, rows },
      signal,
    )
    return terminal.open()
  }

  async #dial(session_id: string, { cols, rows }: Size, take: Take, signal?: AbortSignal): Promise<Socket> {
    if (!this.#WebSocket) throw new TypeError('this runtime has no WebSocket: give one to new Lap, such as that of the package ws')
    for (;;) {
      const session = await this.getSession({ path: { session_id }, signal })
      if (session.tty_url && session.tty_token) {
        // Browsers cannot set headers of a WebSocket, so the URL has a token, for this terminal only.
        const query = new URLSearchParams({ token: session.tty_token, cols: `${cols}`, rows: `${rows}` })
        const url = `${this.#url.replace(/^http/, 'ws')}${session.tty_url}?${query}`
        return dialSocket(this.#WebSocket, url, take, this.#timeout)
      }
      if (!session.supports_tui) throw new TypeError('the harness of the session takes messages and has no terminal')
      if (session.status !== 'creating') throw new Error(`the session is ${session.status}: ${session.failure_reason ?? ''}`)
      await sleep(500, signal)
    }
  }

  #events(sessionId: string, after: number, signal: AbortSignal): Request {
    return this.#request(`${at(eventsURL, sessionId)}?after=${after}`, { signal })
  }

  #post(path: string, message: string | MessageCreate, headers: Record<string, string>, signal?: AbortSignal): Request {
    const body = JSON.stringify(typeof message === 'string' ? { text: message } : message)
    return this.#request(path, { method: 'POST', headers: { ...headers, 'Content-Type': 'application/json' }, body, signal })
  }
}

const eventsURL: StreamEventsData['url'] = '/api/v1/managed_agents/sessions/{session_id}/events'
const messageURL: SendMessageData['url'] = '/api/v1/managed_agents/sessions/{session_id}/message'
const streamURL: StreamMessageData['url'] = '/api/v1/managed_agents/sessions/{session_id}/message_stream'

function at(url: string, sessionId: string): string {
  return url.replace('{session_id}', encodeURIComponent(sessionId))
}

type Init = RequestInit & { headers?: Record<string, string> }

interface Page<T> {
  data: T[]
  next_cursor: string | null
}

/** Yields the rows of one page after the other. */
async function* pages<T>(fetch: (page: { cursor?: string; total: boolean }) => Promise<Page<T>>): AsyncGenerator<T, void> {
  let cursor: string | undefined
  do {
    const page = await fetch({ cursor, total: false })
    yield* page.data
    cursor = page.next_cursor ?? undefined
  } while (cursor)
}

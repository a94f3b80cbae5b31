import { ConnectionError, passing } from './errors.js'
import type { Patience } from './events.js'
import { type Retry, sleep } from './transport.js'

const protocol = 'lap.tty.v1'
const maxQueued = 8 << 20

/** The part of a WebSocket that is used; that of browsers, of Node and of the package `ws` fit. */
export interface Socket {
  binaryType: string
  readonly readyState: number
  send(data: string | Uint8Array): void
  close(code?: number, reason?: string): void
  addEventListener(type: string, listener: (event: any) => void): void
}
export type SocketConstructor = new (url: string, protocols: string[]) => Socket

export interface Size {
  cols: number
  rows: number
}

/** Takes what comes over a connection. */
export type Take = (data: string | ArrayBuffer) => void

/** Opens a connection. */
export type Dial = (size: Size, take: Take) => Promise<Socket>

interface Link {
  socket?: Socket
  heard: number // when something came
  again: boolean // whether another connection should follow
  lost: boolean // nothing is taken from it any more
  forget: () => void
}

/**
 * A session's terminal: what the program writes is read with `for await`, in pieces that end anywhere. A connection that is lost is
 * opened again, and the whole screen is painted anew. The loop ends when the program has ended, or the session was stopped, or
 * after `close`; the program goes on when a client leaves.
 */
export class Terminal implements AsyncIterable<Uint8Array> {
  /** Exit code of the program, with 128 and the signal's number if a signal ended it; undefined as long as it runs. */
  exitCode: number | undefined
  /** Whether there is a connection. What is written meanwhile is lost. */
  connected = false

  #size: Size
  #link: Link | undefined
  #queue: Uint8Array[] = []
  #queued = 0
  #over = new AbortController()
  #fault: unknown
  #wake = () => {}

  constructor(
    private readonly dial: Dial,
    private readonly limits: Retry & Patience,
    size: Size,
    signal?: AbortSignal,
  ) {
    this.#size = size
    if (signal?.aborted) this.close()
    signal?.addEventListener('abort', () => this.close(), { once: true })
  }

  /** Attaches. The promise is kept when there is a connection for the first time. */
  async open(): Promise<this> {
    const first = await this.#connect((failures) => failures > this.limits.retries)
    void this.#serve(first)
    return this
  }

  /** Types. Returns false, and types nothing, while there is no connection. */
  write(keys: string | Uint8Array): boolean {
    if (!this.connected) return false
    this.#link!.socket!.send(typeof keys === 'string' ? new TextEncoder().encode(keys) : keys)
    return true
  }

  /** Tells the size of the window. The terminal has the size of the smallest client. */
  resize(cols: number, rows: number): void {
    this.#size = { cols, rows }
    if (this.connected) this.#link!.socket!.send(JSON.stringify({ type: 'resize', cols, rows }))
  }

  /** Leaves. */
  close(): void {
    this.#over.abort(new ConnectionError('the terminal was closed'))
    this.#link?.socket?.close(1000)
    this.#wake()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    try {
      for (;;) {
        const output = this.#queue.shift()
        if (output) {
          this.#queued -= output.length
          yield output
        } else if (this.#over.signal.aborted) {
          break
        } else {
          await new Promise<void>((resolve) => (this.#wake = resolve))
        }
      }
    } finally {
      this.close()
    }
    if (this.#fault) throw this.#fault
  }

  async #serve(link: Link): Promise<void> {
    try {
      while (await this.#relay(link)) {
        const lost = Date.now()
        link = await this.#connect(() => Date.now() - lost > this.limits.patience)
      }
    } catch (error) {
      if (!this.#over.signal.aborted) this.#fault = error
    }
    this.close()
  }

  async #connect(enough: (failures: number) => boolean): Promise<Link> {
    for (let failures = 1; ; failures++) {
      this.#over.signal.throwIfAborted()
      const link: Link = { heard: Date.now(), again: true, lost: false, forget: () => {} }
      try {
        link.socket = await this.dial(this.#size, (data) => this.#take(link, data))
        return link
      } catch (error) {
        if (!passing(error) || enough(failures)) throw error
        await sleep(Math.min(this.limits.firstPause * 2 ** (failures - 1), 5000), this.#over.signal)
      }
    }
  }

  /** Serves a connection until it ends, and tells whether another one should follow. */
  async #relay(link: Link): Promise<boolean> {
    const begun = Date.now()
    const socket = link.socket!
    const ended = new Promise<void>((resolve) => {
      link.forget = resolve
      socket.addEventListener('close', ({ code, reason }: { code: number; reason: string }) => {
        link.again &&= ![1000, 1008, 1009].includes(code)
        if (code === 1008 || code === 1009) this.#fault = new Error(`the terminal was closed: ${reason}`)
        resolve()
      })
    })
    const pings = setInterval(() => {
      if (Date.now() - link.heard > this.limits.silence) this.#drop(link)
      else if (socket.readyState === 1) socket.send('{"type":"ping"}')
    }, this.limits.silence / 3)
    this.#link = link
    this.connected = true
    this.resize(this.#size.cols, this.#size.rows) // it may have changed meanwhile
    if (this.#over.signal.aborted) socket.close(1000)
    if (!link.lost && socket.readyState < 2) await ended
    this.connected = false
    clearInterval(pings)
    if (link.again && Date.now() - begun < 2000) await sleep(this.limits.firstPause, this.#over.signal)
    return link.again && !this.#over.signal.aborted
  }

  #take(link: Link, data: string | ArrayBuffer): void {
    if (link.lost) return
    link.heard = Date.now()
    if (typeof data === 'string') {
      const code = exitCode(data)
      if (code === undefined) return
      this.exitCode = code
      link.again = false
      return
    }
    this.#queue.push(new Uint8Array(data))
    this.#queued += data.byteLength
    if (this.#queued > maxQueued) {
      // The reader is far behind: it gets the screen painted anew instead.
      this.#queue = []
      this.#queued = 0
      this.#drop(link)
    }
    this.#wake()
  }

  /** Leaves a connection without waiting for its other end. */
  #drop(link: Link): void {
    link.lost = true
    link.socket?.close(4000)
    link.forget()
  }
}

/** Reads the message that says that the program has ended. */
function exitCode(text: string): number | undefined {
  try {
    const said = JSON.parse(text) as { type: string; code: number }
    return said.type === 'exit' ? said.code : undefined
  } catch {
    return undefined
  }
}

/** Opens a WebSocket. Why one could not be opened is not told to programs. */
export function dialSocket(constructor: SocketConstructor, url: string, take: Take, timeout: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = new constructor(url, [protocol])
    socket.binaryType = 'arraybuffer'
    const fail = () => {
      clearTimeout(timer)
      socket.close()
      reject(new ConnectionError('the terminal cannot be reached'))
    }
    const timer = setTimeout(fail, timeout)
    socket.addEventListener('open', () => {
      clearTimeout(timer)
      resolve(socket)
    })
    socket.addEventListener('message', ({ data }: { data: string | ArrayBuffer }) => take(data))
    socket.addEventListener('error', fail)
    socket.addEventListener('close', fail)
  })
}

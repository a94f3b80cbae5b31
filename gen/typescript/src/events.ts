import { ConnectionError, LapError, passing, TurnFailed } from './errors.js'
import type { Event, MessagePart, TurnError } from './gen/types.gen.js'
import type { Transport } from './transport.js'

export interface Patience {
  /** Milliseconds without a byte after which a connection is taken for dead. The server sends a heartbeat every 15 s. Default 45,000. */
  silence: number
  /** Milliseconds after which a stream that was lost and cannot be opened again is given up. Default 120,000. */
  patience: number
}

export interface Stream {
  /** Makes the request for the events after a cursor. */
  open(after: number, signal: AbortSignal): Request
  /** Only events with a greater `seq`. */
  after: number
  signal: AbortSignal | undefined
}

/** Yields the events of a stream, each once. A stream that breaks or falls silent is opened again where it was. */
export async function* follow(transport: Transport, { silence, patience }: Patience, stream: Stream): AsyncGenerator<Event, void> {
  const { signal } = stream
  let { after } = stream
  let failures = 0
  let heard = 0 // when the last bytes came, 0 before
  for (;;) {
    signal?.throwIfAborted()
    const connection = new AbortController()
    const abort = () => connection.abort(signal?.reason)
    signal?.addEventListener('abort', abort)
    const begun = Date.now()
    let cause: unknown = new ConnectionError('the stream ended')
    try {
      const response = await transport.once(stream.open(after, connection.signal))
      for await (const event of parse(response, connection.signal, silence, () => (heard = Date.now()))) {
        failures = 0
        if (event.seq <= after) continue
        after = event.seq
        yield event
      }
    } catch (error) {
      signal?.throwIfAborted()
      cause = error
    } finally {
      signal?.removeEventListener('abort', abort)
      connection.abort()
    }
    if (Date.now() - begun > transport.retry.maxPause) failures = 0 // it held for a while
    failures++
    if (!passing(cause) || (heard ? Date.now() - heard > patience : failures > transport.retry.retries)) throw cause
    await transport.pause(failures, cause, signal)
  }
}

/** Yields the events of one answer. One that was cut off is not among them. */
async function* parse(response: Response, signal: AbortSignal, silence: number, alive: () => void): AsyncGenerator<Event, void> {
  if (!response.body || !response.headers.get('Content-Type')?.startsWith('text/event-stream')) {
    throw new LapError(response.status, response.headers, '')
  }
  const reader = response.body.getReader()
  // An aborted request does not end its body everywhere: Node forgets the connection between the two.
  const cancel = () => void reader.cancel().catch(() => {})
  signal.addEventListener('abort', cancel)
  const decoder = new TextDecoder()
  let line = ''
  let data = ''
  try {
    for (;;) {
      const { done, value } = await within(silence, reader.read())
      if (done) return
      alive()
      const text = decoder.decode(value, { stream: true })
      let start = 0
      for (let end; (end = text.indexOf('\n', start)) >= 0; start = end + 1) {
        line += text.slice(start, end)
        if (line.startsWith('data:')) data += line.slice(5)
        if (line.trimEnd() === '' && data) {
          yield JSON.parse(data) as Event
          data = ''
        }
        line = ''
      }
      line += text.slice(start)
    }
  } finally {
    cancel()
  }
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ConnectionError(`nothing came for ${ms} ms`)), ms)
  })
  try {
    return await Promise.race([work, late])
  } catch (error) {
    throw error instanceof ConnectionError ? error : new ConnectionError('the stream broke', { cause: error })
  } finally {
    clearTimeout(timer)
  }
}

/** An event after which there is none of its turn. */
export function endsTurn(event: Event): boolean {
  return ['turn.completed', 'turn.failed', 'turn.aborted'].includes(event.type)
}

/**
 * Yields the text of a reply as it comes, each piece once; reasoning and tools are left out. Throws a `TurnFailed` if the turn
 * does not complete.
 */
export async function* textOf(events: AsyncIterable<Event>): AsyncGenerator<string, void> {
  const shown = new Map<string, { text: string; points: number }>()
  let current = { text: '\n', points: 0 }
  const part = (id: string) => shown.get(id) ?? { text: '', points: 0 }
  const show = function* (id: string, points: string[]) {
    if (points.length === 0) return
    const before = part(id)
    if (current !== before && !current.text.endsWith('\n')) yield '\n'
    const text = points.join('')
    current = { text: before.text + text, points: before.points + points.length }
    shown.set(id, current)
    yield text
  }
  for await (const { type, data, turn_id } of events) {
    if (type === 'message.delta' && data['type'] !== 'reasoning') {
      // Offsets count code points. After a gap, which a stream that was opened again may have, the whole part comes.
      const id = data['part_id'] as string
      const known = part(id).points - (data['offset'] as number)
      if (known >= 0) yield* show(id, [...(data['text'] as string)].slice(known))
    } else if (type === 'message.part') {
      const { id, type: kind, text = '' } = data['part'] as MessagePart
      if (kind !== 'text') continue
      let rest = text.slice(part(id).text.length)
      if (!text.startsWith(part(id).text)) {
        shown.delete(id) // the part is not what its deltas were
        rest = text
      }
      yield* show(id, [...rest])
    } else if (type === 'turn.failed' || type === 'turn.aborted') {
      const fault = (data['info'] as { error?: TurnError } | undefined)?.error
      throw new TurnFailed(turn_id, fault?.name ?? 'aborted', fault?.message ?? 'the turn was aborted')
    }
  }
}

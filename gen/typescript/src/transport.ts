import { ConnectionError, LapError, ofProxy, passing } from './errors.js'

const keyHeader = 'Idempotency-Key'

export interface Retry {
  /** Tries after the first one. Default 4; 0 is none. */
  retries: number
  /** Milliseconds of the first pause; each is twice the one before, less up to half of it by chance. Default 250. */
  firstPause: number
  /** Milliseconds of the longest pause. An error that asks for a longer one is thrown. Default 30,000. */
  maxPause: number
}

/** Sends requests, again if that may help and can do no harm. */
export class Transport {
  constructor(
    readonly retry: Retry,
    private readonly timeout: number,
    private readonly fetch: typeof globalThis.fetch,
  ) {}

  /** Sends a request until it has an answer. A POST gets a key, so that whatever it does is done once. */
  async send(request: Request): Promise<Response> {
    if (request.method === 'POST' && !request.headers.has(keyHeader)) request.headers.set(keyHeader, newKey())
    let unsure = false // whether a try may have been carried out though it has no answer
    for (let failures = 1; ; failures++) {
      try {
        return await this.once(request.clone())
      } catch (error) {
        if (unsure && isGone(request, error)) return new Response(null, { status: 204 })
        unsure ||= !(error instanceof LapError) || ofProxy(error)
        if (failures > this.retry.retries || !passing(error)) throw error
        if (unsure && request.headers.has('If-Match')) throw error // the change itself would let another try fail
        await this.pause(failures, error, request.signal)
      }
    }
  }

  /** Sends a request once. The answer is whole unless it is a stream. */
  async once(request: Request): Promise<Response> {
    const limit = new AbortController()
    const abort = () => limit.abort(request.signal.reason)
    if (request.signal.aborted) abort()
    request.signal.addEventListener('abort', abort)
    const timer = setTimeout(() => limit.abort(new ConnectionError(`no answer within ${this.timeout} ms`)), this.timeout)
    try {
      const { fetch } = this // which a browser wants to be called as nobody's method
      const response = await fetch(request, { signal: limit.signal })
      if (!response.ok) throw new LapError(response.status, response.headers, await response.text())
      if (!isJSON(response)) return response
      const { status, headers } = response
      return new Response(await response.arrayBuffer(), { status, headers })
    } catch (error) {
      request.signal.throwIfAborted()
      if (error instanceof LapError || error instanceof ConnectionError) throw error
      throw new ConnectionError('no answer from the server', { cause: error })
    } finally {
      clearTimeout(timer)
    }
  }

  /** Waits before another try, or throws the error if it asks for more than that. */
  async pause(failures: number, error: unknown, signal?: AbortSignal): Promise<void> {
    const { firstPause, maxPause } = this.retry
    const asked = error instanceof LapError ? (error.retryAfter ?? 0) * 1000 : 0
    if (asked > maxPause) throw error
    const pause = Math.min(firstPause * 2 ** (failures - 1), maxPause) * (0.5 + Math.random() / 2)
    await sleep(asked > pause ? asked + Math.random() * firstPause : pause, signal)
  }
}

/** A new Idempotency-Key. crypto.randomUUID is only there on pages that came by HTTPS. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('')
}

export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop)
      resolve()
    }, ms)
    if (signal?.aborted) stop()
    signal?.addEventListener('abort', stop, { once: true })
  })
}

function isJSON(response: Response): boolean {
  return response.headers.get('Content-Type')?.startsWith('application/json') ?? false
}

/** An object that was to be deleted is not there any more. */
function isGone(request: Request, error: unknown): boolean {
  return (
    request.method === 'DELETE' &&
    error instanceof LapError &&
    error.code === 'not_found' &&
    /\/(agents|skills|sessions)\/[^/]+$/.test(new URL(request.url).pathname)
  )
}

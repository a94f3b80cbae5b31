import type { Error as Answer, ErrorDetail } from './gen/types.gen.js'

/** An answer that is not a success. Its message is the server's sentence with each violation. */
export class LapError extends Error {
  override readonly name = 'LapError'
  /** Of HTTP. */
  readonly status: number
  /** Stable name of the error; empty if it was not the API that answered. */
  readonly code: string
  /** Names the request in the server's log. */
  readonly requestId: string
  /** What is wrong with the request, all of it: a JSON Pointer into the body, or `query/<name>`, `header/<name>`. */
  readonly violations: ErrorDetail[]
  /** Seconds to wait before another try, where the server says so. */
  readonly retryAfter: number | undefined

  constructor(status: number, headers: Headers, body: string) {
    const answer = parse(body)
    super(
      answer
        ? [answer.error, ...answer.details.map((d) => `${d.field}: ${d.message}`)].join('; ')
        : `the server answered ${status}`,
    )
    this.status = status
    this.code = answer?.code ?? ''
    this.requestId = answer?.request_id ?? headers.get('X-Request-Id') ?? ''
    this.violations = answer?.details ?? []
    this.retryAfter = seconds(headers.get('Retry-After'))
  }
}

/** There was no answer, or not all of it: the server cannot be reached, the connection broke or fell silent. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError'
}

/** A turn did not complete. */
export class TurnFailed extends Error {
  override readonly name = 'TurnFailed'

  constructor(
    readonly turnId: string | null,
    /** `turn_interrupted`, `session_not_ready`, `turn_timeout`, `aborted`, or the harness's own name. */
    readonly code: string,
    message: string,
  ) {
    super(message)
  }
}

/** What went wrong may have gone the next time. */
export function passing(error: unknown): boolean {
  if (!(error instanceof LapError)) return error instanceof ConnectionError
  switch (error.status) {
    case 429:
      return true
    case 503:
      return !['gateway_not_configured', 'harness_not_available'].includes(error.code)
  }
  return ofProxy(error)
}

/** A proxy had no answer of the server, so nobody knows what the server did. */
export function ofProxy(error: LapError): boolean {
  return [502, 504].includes(error.status) && error.code === ''
}

function parse(body: string): Answer | undefined {
  try {
    const answer = JSON.parse(body) as Answer
    return typeof answer.code === 'string' && Array.isArray(answer.details) ? answer : undefined
  } catch {
    return undefined
  }
}

/** Retry-After is a number of seconds or a date. */
function seconds(header: string | null): number | undefined {
  if (header === null) return undefined
  const wait = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000
  return wait > 0 ? wait : undefined
}

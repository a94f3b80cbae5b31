/** The client of the LAP API. What is in gen/ is generated from openapi/openapi.yaml, the rest is written by hand. */
export { ConnectionError, LapError, TurnFailed } from './errors.js'
export { type Patience, textOf } from './events.js'
export type * from './gen/types.gen.js'
export { type CallOptions, Lap, type LapOptions, type SendOptions } from './lap.js'
export { type Size, type Socket, type SocketConstructor, Terminal } from './terminal.js'
export type { Retry } from './transport.js'

// Uses the client against a server, and against a proxy in front of it that breaks connections. Any surprise ends it with an error.
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'

import { WebSocket } from 'ws'

import { ConnectionError, type Event, Lap, LapError, textOf, TurnFailed } from '@litellm-agent-platform/lap'

const { LAP_URL: url = '', LAP_KEY: key = '', FAULTY_URL: faultyURL = '' } = process.env
const direct = new Lap({ url, key })
const faulty = new Lap({ url: faultyURL, key, WebSocket, firstPause: 20, maxPause: 2000, silence: 2000 })

async function all<T>(rows: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const row of rows) list.push(row)
  return list
}

async function until(what: string, ok: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 180_000; !(await ok()); await sleep(50)) {
    if (Date.now() > deadline) throw new Error(`never: ${what}`)
  }
}

async function fails(work: Promise<unknown>, status: number, code: string): Promise<LapError> {
  const error = await work.then(
    () => assert.fail(`no ${code}`),
    (error: unknown) => error,
  )
  assert.ok(error instanceof LapError, inspect(error))
  assert.deepEqual([error.status, error.code], [status, code])
  assert.match(error.requestId, /^[\w-]+$/)
  return error
}

async function errors(): Promise<void> {
  const invalid = await fails(direct.createAgent({ body: { model: '', pfp_url: 'no' } }), 400, 'invalid_request')
  assert.deepEqual(invalid.violations.map((v) => v.field).sort(), ['/model', '/pfp_url'])
  assert.match(invalid.message, /\/pfp_url: /)
  await fails(direct.getSession({ path: { session_id: 'none' } }), 404, 'not_found')
  await fails(new Lap({ url, key: 'wrong' }).listAgents(), 401, 'unauthorized')
  await fails(all(direct.streamEvents('none')), 404, 'not_found')
  await fails(all(direct.streamMessage('none', 'x')), 404, 'not_found')
  const headers = { 'Idempotency-Key': 'the-same' }
  await direct.createSkill({ body: { name: 'Errors', content: 'x' }, headers })
  await fails(direct.createSkill({ body: { name: 'Errors', content: 'y' }, headers }), 422, 'idempotency_key_reused')
  const agent = await direct.createAgent({ body: { model: 'demo/errors' } })
  const path = { agent_id: agent.id }
  await direct.updateAgent({ path, body: { name: 'a' }, headers: { 'If-Match': `"${agent.version}"` } })
  await fails(direct.updateAgent({ path, body: { name: 'b' }, headers: { 'If-Match': `"${agent.version}"` } }), 412, 'precondition_failed')

  await assert.rejects(new Lap({ url: 'http://127.0.0.1:1', key, retries: 1, firstPause: 1 }).listAgents(), ConnectionError)
  await assert.rejects(all(direct.streamEvents('none', { signal: AbortSignal.abort() })), { name: 'AbortError' })
  assert.ok(!inspect([direct, invalid], { depth: 20, showHidden: true }).includes(key), 'the key is shown')
}

async function operations(): Promise<void> {
  const methods = new Map<string, unknown>()
  for (let o: object = direct; o !== Object.prototype; o = Object.getPrototypeOf(o)) {
    for (const name of Object.getOwnPropertyNames(o)) methods.set(name.toLowerCase(), name)
  }
  const spec = (await direct.getOpenApijson()) as {
    components: { parameters: { Cursor: unknown } }
    paths: Record<string, Record<string, { operationId?: string; parameters?: { $ref?: string }[] }>>
  }
  let lists = 0
  for (const { operationId, parameters } of Object.values(spec.paths).flatMap((item) => Object.values(item))) {
    if (!operationId) continue
    assert.ok(methods.has(operationId.toLowerCase()), operationId)
    if (!parameters?.some((p) => p.$ref === '#/components/parameters/Cursor')) continue
    assert.ok(methods.has(operationId.toLowerCase().replace(/^list/, '')), `no iterator of ${operationId}`)
    lists++
  }
  assert.ok(lists >= 5)
}

/** Everything is made once though the first answer is always lost, and read in pages though some are refused at first. */
async function lists(): Promise<void> {
  const skills: string[] = []
  for (let i = 0; i < 7; i++) skills.push((await faulty.createSkill({ body: { name: `Skill ${i}`, content: 'x' } })).id)
  const read = (await all(faulty.skills({ limit: 3 }))).filter((s) => s.name.startsWith('Skill '))
  assert.deepEqual(read.map((s) => s.id), [...skills].reverse())

  const [skill_id = ''] = skills
  for (let i = 0; i < 3; i++) await faulty.updateSkill({ path: { skill_id }, body: { content: `version ${i}` } })
  assert.deepEqual((await all(faulty.skillVersions(skill_id, { limit: 1 }))).map((s) => s.version), [4, 3, 2, 1])

  for (let i = 0; i < 3; i++) await faulty.createAgent({ body: { model: 'demo/once', name: `once ${i}` } })
  const agents = await all(faulty.agents({ limit: 1, search: 'once', sort: 'name', order: 'asc' }))
  assert.deepEqual(agents.map((a) => a.name), ['once 0', 'once 1', 'once 2'])

  for (const { id: agent_id } of agents) await faulty.deleteAgent({ path: { agent_id } })
  assert.equal((await all(direct.agents({ search: 'once' }))).length, 0)
  await fails(direct.deleteAgent({ path: { agent_id: agents[0]!.id } }), 404, 'not_found')
}

/** Streams that break all the time are whole, and each message is sent once. */
async function conversation(): Promise<void> {
  const agent = await faulty.createAgent({ body: { model: 'demo/echo' } })
  const session = await faulty.createSession({ path: { agent_id: agent.id } })
  assert.equal((await all(faulty.sessions({ agent_id: agent.id }))).length, 1)
  const live: Event[] = []
  const watched = (async () => {
    let turns = 0
    for await (const event of faulty.streamEvents(session.id)) {
      live.push(event)
      if (event.type.startsWith('turn.') && ['turn.completed', 'turn.failed'].includes(event.type) && ++turns === 5) break
    }
  })()

  let text = ''
  for await (const piece of textOf(faulty.streamMessage(session.id, 'SLOW: 30'))) text += piece
  assert.equal(text.trim(), `[demo] ${Array.from({ length: 30 }, (_, i) => i + 1).join(' ')}`)

  const turn = await faulty.sendMessage(session.id, 'RUN: echo $((40+2))')
  assert.equal(turn.status, 'completed')
  assert.match(turn.parts.at(-1)?.text ?? '', /RESULT: 42/)

  await assert.rejects(all(textOf(faulty.streamMessage(session.id, 'FAIL: 400 no such luck'))), (error) => {
    return error instanceof TurnFailed && /no such luck|as it was asked to/.test(error.message) && error.turnId !== null
  })

  const queued = await faulty.queueMessage(session.id, 'queued')
  assert.equal(queued.session_id, session.id)

  const idempotencyKey = 'joined-by-two'
  const [one = [], two = []] = await Promise.all([1, 2].map(() => all(direct.streamMessage(session.id, 'both', { idempotencyKey }))))
  assert.equal(one.at(-1)?.type, 'turn.completed')
  assert.equal(one.at(-1)?.seq, two.at(-1)?.seq)

  await watched
  const lasting = (list: Event[]) => list.filter((e) => e.type !== 'message.delta').map((e) => `${e.seq} ${e.type}`)
  const stored = (await all(direct.events(session.id))).filter((e) => e.seq <= live.at(-1)!.seq)
  assert.deepEqual(lasting(live), lasting(stored))
  live.reduce((before, event) => (assert.ok(event.seq > before.seq, `${event.seq} after ${before.seq}`), event))

  const said = (await all(faulty.messages(session.id, { limit: 2 }))).filter((m) => m.info.role === 'user').map((m) => m.parts[0]?.text)
  assert.deepEqual(said, ['SLOW: 30', 'RUN: echo $((40+2))', 'FAIL: 400 no such luck', 'queued', 'both'])
  await assert.rejects(direct.openTerminal(session.id), TypeError)
  await faulty.deleteSession({ path: { session_id: session.id } })
  console.log(`${live.length} events`)
}

/** A terminal is typed into and read, and attached again when its connection is cut. */
async function terminal(): Promise<void> {
  const agent = await faulty.createAgent({ body: { model: 'demo/echo', harness_id: 'codex' } })
  const session = await faulty.createSession({ path: { agent_id: agent.id } })
  const terminal = await faulty.openTerminal(session.id, { cols: 110, rows: 36 })
  let screen = ''
  const decoder = new TextDecoder()
  const read = (async () => {
    for await (const bytes of terminal) screen += decoder.decode(bytes, { stream: true })
  })()
  const asks = async (sum: string, answer: string) => {
    await until(`the prompt before ${sum}`, () => /Ask Codex|›/.test(screen))
    await until('a connection', () => terminal.write(`\x1b[200~RUN: echo $((${sum}))\x1b[201~`))
    let tick = 0
    await until(answer, () => {
      if (++tick % 20 === 0) terminal.write('\r') // too soon after the text it would be a part of it
      return screen.includes(answer)
    })
  }
  await asks('10000+2345', '12345')
  screen = ''
  await fetch(`${faultyURL}/cut`, { method: 'POST' })
  await until('the screen painted anew', () => screen.includes('12345'))
  terminal.resize(100, 30)
  await asks('60000+7890', '67890')
  await direct.stopSession({ path: { session_id: session.id } })
  await read
  assert.equal(terminal.exitCode ?? 143, 143) // the stop ends the program, and may leave it no time to say so
  assert.equal(terminal.write('x'), false)
  await assert.rejects(direct.openTerminal(session.id), /WebSocket|the session is dead/)
  await assert.rejects(faulty.openTerminal(session.id), /the session is dead/)
  await faulty.deleteSession({ path: { session_id: session.id } })
}

await Promise.all(
  [errors, operations, lists, conversation, terminal].map(async (part) => {
    const begun = Date.now()
    await part()
    console.log(`${part.name} ${Date.now() - begun} ms`)
  }),
)

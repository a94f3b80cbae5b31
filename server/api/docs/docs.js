'use strict';

// Swagger UI waits for the end of an answer before it shows any of it. Streams are therefore read for so many seconds only.
const followFor = { GET: 5, POST: 60 };
const longestStream = 1 << 20; // characters

// Colouring a longer text would hold the page up.
const longestColoured = 20_000; // characters

// What the button does where it is not what a client would do. It stands above the operation's description.
const notes = {
  streamEvents: `**Try it out** reads the stream for ${followFor.GET} seconds and shows what has come until then. \`follow=false\` with the response media type \`application/json\` gives a page at once. A client keeps the stream open and resumes it: see [events](/docs/guide/concepts#event).`,
  streamMessage: `**Try it out** really sends the message, reads the stream until the turn ends, for ${followFor.POST} seconds at most, and shows it as a whole. The turn goes on after that. To see events as they come, use \`curl -N\`.`,
  sendMessage: '**Try it out** really sends the message and shows the answer when the turn has ended. With `Prefer: respond-async` it comes at once.',
  getSandboxLogs: `**Try it out** with \`follow=true\` reads for ${followFor.GET} seconds and shows what has come until then.`,
  openTerminal: '**Try it out** cannot open a terminal: a page can only send a plain request here, which is answered with 426 `upgrade_required`, or with why the session has no terminal. Use `lap attach <session>`, or a WebSocket client as the [guide](/docs/guide/harnesses#terminals) shows.',
};

// Ids that operations make, by the end of their path. They are filled in wherever a path needs one.
const made = [
  [/\/agents$/, 'agent_id', (made) => made.id],
  [/\/skills$/, 'skill_id', (made) => made.id],
  [/\/session$/, 'session_id', (made) => made.id],
  [/\/message$/, 'turn_id', (made) => made.id || made.info.turn_id],
];

const operationsOf = (spec) => Object.entries(spec.paths).flatMap(([path, item]) =>
  Object.entries(item).filter(([, operation]) => operation.operationId).map(([method, operation]) => ({ path, method, operation, item })));

// adapt changes the document for this page: examples of parameters would be sent as they are, and the terminal's own tokens are
// of no use to a page, which would put them into a URL.
function adapt(spec) {
  if (!spec || !spec.paths) return spec;
  const adapted = structuredClone(spec);
  for (const { operation, item } of operationsOf(adapted)) {
    for (const parameter of [...(item.parameters || []), ...(operation.parameters || [])]) delete parameter.example;
    const note = notes[operation.operationId];
    if (note) operation.description = `${note}\n\n${operation.description}`;
    if (operation.security && operation.security.length) operation.security = [{ masterKey: [] }];
  }
  for (const parameter of Object.values(adapted.components.parameters)) delete parameter.example;
  adapted.components.securitySchemes = { masterKey: adapted.components.securitySchemes.masterKey };
  return adapted;
}

// read returns an answer that has an end.
async function read(response, seconds) {
  const type = response.headers.get('Content-Type') || '';
  if (!type.startsWith('text/') || !response.body) return response;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '', cut = '';
  const timer = setTimeout(() => { cut = `${seconds} seconds`; reader.cancel(); }, seconds * 1000);
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
    if (text.length > longestStream) { cut = `${longestStream} characters`; reader.cancel(); break; }
  }
  clearTimeout(timer);
  if (cut) text += `\n: this page stopped reading after ${cut}; the stream goes on\n`;
  return new Response(text, { status: response.status, statusText: response.statusText, headers: response.headers });
}

async function send(url, request) {
  const response = await read(await fetch(url, request), followFor[request.method] || followFor.GET);
  const path = new URL(url, location).pathname;
  for (const [end, name, id] of made) {
    if (request.method === 'POST' && response.ok && end.test(path)) fill(name, id(await response.clone().json()));
  }
  return response;
}

// fill sets a path's parameter in every operation that has it, and where a person has not typed another.
function fill(name, value) {
  for (const { path, method } of operationsOf(ui.specSelectors.specJson().toJS())) {
    if (path.includes(`{${name}}`)) ui.specActions.changeParam([path, method], name, 'path', value);
  }
}

// The shown command takes the key from a variable, so that neither a screenshot nor a shell's history has it.
const withoutKey = /'Authorization: Bearer [^']*'/;

const ui = SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#swagger-ui',
  layout: 'BaseLayout',
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [({ fn: { requestSnippetGenerator_curl_bash: curl } }) => ({
    statePlugins: { spec: { wrapActions: { updateJsonSpec: (update) => (spec) => update(adapt(spec)) } } },
    wrapComponents: {
      SyntaxHighlighter: (Highlighter, { React: { createElement } }) => (props) => (String(props.children).length > longestColoured
        ? createElement('pre', { className: props.className }, createElement('code', null, props.children))
        : createElement(Highlighter, props)),
    },
    fn: {
      requestSnippetGenerator_curl_bash: (request) => curl(request).replace(withoutKey, '"Authorization: Bearer $MASTER_KEY"'),
    },
  })],
  requestSnippetsEnabled: true,
  requestSnippets: { languages: ['curl_bash'], defaultExpanded: true },
  requestInterceptor: (request) => Object.assign(request, { userFetch: send }),
  persistAuthorization: true,
  deepLinking: true,
  displayOperationId: true,
  displayRequestDuration: true,
  filter: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});

// @hey-api/openapi-ts: types, operations and a fetch client. What is in src/gen is generated, what is beside it is written by hand.
export default {
  input: '../../openapi/openapi.yaml',
  output: { path: 'src/gen', module: { extension: '.js' }, entryFile: false },
  plugins: [
    { name: '@hey-api/client-fetch', throwOnError: true },
    '@hey-api/typescript',
    {
      name: '@hey-api/sdk',
      responseStyle: 'data',
      operations: { strategy: 'single', containerName: 'Operations', methods: 'instance' },
    },
  ],
}

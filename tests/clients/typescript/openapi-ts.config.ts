// `.ts`, so that Node.js runs what is generated as it is.
export default {
  input: '../../../openapi/openapi.json',
  output: { path: 'generated', module: { extension: '.ts' } },
}

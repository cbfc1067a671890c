// `.ts`, which tsc rewrites as it compiles.
export default {
  input: process.env.HEADWATER_OPENAPI,
  output: { path: 'src/generated', module: { extension: '.ts' } },
}

// Loaded into npm before anything else: appends to the file $RENAMES the old name
// of every directory that was renamed.
const fs = require('fs')
const { rename, lstat } = fs.promises
fs.promises.rename = async (from, to) => {
  await rename(from, to)
  if ((await lstat(to)).isDirectory()) {
    fs.appendFileSync(process.env.RENAMES, from + '\n')
  }
}
const withCallback = fs.rename
fs.rename = (from, to, done) => withCallback(from, to, error => {
  if (!error && fs.lstatSync(to).isDirectory()) {
    fs.appendFileSync(process.env.RENAMES, from + '\n')
  }
  done(error)
})

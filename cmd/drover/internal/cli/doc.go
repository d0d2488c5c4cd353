// Package cli has what the commands of drover share: the App that each command works with, flags and their
// errors, output as tables or JSON, waiting for operations, completion and the words for values.
package cli

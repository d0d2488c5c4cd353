// Package cli has the shared parts of the commands of drover: the App that each command works with, flags and their
// errors, output as tables or JSON, waiting for operations, completion and the words for values.
package cli

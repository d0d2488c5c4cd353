// Package listing makes the ls commands. All of them filter, sort and print their items in the same way: --filter
// selects items, --sort orders them, -o and --format choose the output. The packages of nouns, such as volumes,
// describe their list with a List. Its columns are everything that a user can print, filter or sort by, so a new Column
// is also a new key and a new name in templates. Package main filters the stream of drover events with ParseFilter. The
// package has no state.
package listing

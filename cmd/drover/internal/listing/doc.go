// Package listing makes the ls commands. All of them filter, sort and print their items in the same way: --filter and
// --label select items, --sort orders them, and -o chooses the format. The packages of nouns, such as volumes, describe
// their list with a List, and print the items of their inspect command with a Template. Package main filters the stream
// of drover events with a StreamFilter. A key of --filter or --sort is a column of the table or a field of the JSON
// output, so a new column or field is a new key. The package has no state.
package listing

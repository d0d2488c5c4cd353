package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/dataset"
)

// TasksTopic is the word in drover help tasks, which prints the list of tasks. Without help before it, the word is a
// synonym of a command.
const TasksTopic = "tasks"

// Translate returns a command line with the commands and flags of Drover in the place of their synonyms. root is the
// command tree. Words that are no synonyms stay, and cobra reports their errors. Translate has no side effects except
// that it adds the default and inherited flags to the commands that it examines.
func Translate(root *cobra.Command, words []string) []string {
	if len(words) > 0 && strings.HasPrefix(words[0], cobra.ShellCompRequestCmd) {
		return words
	}
	root.InitDefaultVersionFlag()
	root.InheritedFlags() // adds the flags of all commands to those of root
	first, rest, last := leadingFlags(root, words)
	if slices.Equal(rest, []string{"help", TasksTopic}) || slices.Equal(rest, []string{"help", "task"}) {
		return words
	}
	if len(rest) > 0 && rest[0] == "help" {
		topic := slices.DeleteFunc(commandWords(root, rest[1:]), func(w string) bool { return w != "" && w[0] == '-' })
		return slices.Concat(first, rest[:1], topic)
	}
	rest = append(commandWords(root, rest), last...)
	if len(rest) == 2 && (rest[0] == "status" || rest[0] == "doctor") && hasArgument(rest[1:]) {
		rest = []string{"volume", "inspect", rest[1]} // systemctl status UNIT
	}
	cmd, path := commandOf(root, rest)
	if cmd.HasSubCommands() {
		rest = withoutHelp(rest, path)
	} else {
		rest = slices.Concat(rest[:path], translateArguments(cmd, translateFlags(cmd, rest[path:])))
	}
	words = slices.Concat(first, rest)
	if line := correctedWords(cmd, words); line != nil {
		return line
	}
	return words
}

// withoutHelp removes --help from a command line whose word after the path of a group names no command. Otherwise,
// cobra would print the help of the group, as if the word were known.
func withoutHelp(words []string, path int) []string {
	if path == len(words) || words[path] == "" || words[path][0] == '-' || words[path] == "help" {
		return words
	}
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "--help" || w == "-h" })
}

// leadingFlags splits a command line into the flags of all commands before the command, the command with its arguments,
// and flags before the command that belong after it, such as --json.
func leadingFlags(root *cobra.Command, words []string) (first, rest, last []string) {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") && words[0] != "--" {
		n := 1
		name, _, hasValue := strings.Cut(words[0], "=")
		if !hasValue && len(words) > 1 && (name == "-o" || name == "--output" || rootTakesValue(root, name)) {
			n = 2
		}
		switch {
		case name == "-V":
			first = append(first, "--version")
		case name == "--json" || name == "-o" || name == "--output":
			last = append(last, words[:n]...)
		default:
			first = append(first, translateFlags(root, words[:n])...)
		}
		words = words[n:]
	}
	return first, words, last
}

// rootTakesValue reports whether a flag before the command takes its value from the next word.
func rootTakesValue(root *cobra.Command, name string) bool {
	for _, s := range flagSynonyms {
		if s.typed == name+"=" && strings.HasPrefix(s.accepted, "--api") {
			return true
		}
	}
	return len(name) > 1 && takesValue(root, name)
}

// commandOf returns the command that words begin with, and how many of the words name it.
func commandOf(root *cobra.Command, words []string) (cmd *cobra.Command, path int) {
	for cmd = root; path < len(words); path++ {
		child := childOf(cmd, words[path])
		if child == nil {
			break
		}
		cmd = child
	}
	return cmd, path
}

// childOf returns the subcommand of cmd that has this name or alias, or nil.
func childOf(cmd *cobra.Command, word string) *cobra.Command {
	for _, c := range cmd.Commands() {
		if c.Name() == word || c.HasAlias(word) {
			return c
		}
	}
	return nil
}

// commandWords replaces a synonym at the beginning of a command line.
func commandWords(root *cobra.Command, words []string) []string {
	if len(words) == 0 {
		return words
	}
	if len(words) > 1 {
		typed := words[0]
		if noun := childOf(root, typed); noun != nil {
			typed = noun.Name()
		}
		if is := synonyms[strings.ToLower(typed+" "+words[1])]; is != "" {
			return append(strings.Fields(is), words[2:]...)
		}
	}
	noun := childOf(root, words[0])
	switch {
	case noun == nil:
		return rootWords(root, words)
	case !noun.HasSubCommands() || len(words) == 1 || childOf(noun, words[1]) != nil:
		return words
	case words[1] == "help":
		return append([]string{"help", noun.Name()}, words[2:]...)
	case noun.Name() == "snapshot" && takesSnapshot(noun, words):
		return append([]string{"snapshot", "create"}, words[1:]...)
	}
	if is := acceptedCommand(noun, words[1], words[2:]); is != nil {
		return append(is, words[2:]...)
	}
	return words
}

// takesSnapshot reports whether words are those of zfs: snap VOLUME, or snapshot VOLUME@NAME. The name of the volume
// must not look like a command. The words snapshot VOLUME may also mean the list.
func takesSnapshot(noun *cobra.Command, words []string) bool {
	volume, _, at := strings.Cut(words[1], "@")
	return (words[0] == "snap" || at) && dataset.CheckName(volume) == nil &&
		meantCommand(noun, volume) == "" && advise(noun, volume) == "" &&
		dataset.Nearest(volume, commandNames(noun)) == ""
}

// rootWords replaces a synonym that is not below a noun: ls, get volumes, or volumes ls.
func rootWords(root *cobra.Command, words []string) []string {
	if len(words) > 1 {
		if noun, plural := nounOf(root, words[0]); plural && childOf(noun, words[1]) != nil {
			return append([]string{noun.Name()}, words[1:]...)
		}
		noun, _ := nounOf(root, words[1])
		name := foreignNouns[strings.ToLower(words[1])]
		switch reads := words[0] == "get" || words[0] == "describe"; {
		case reads && name != "":
			noun = childOf(root, name)
		case reads && isOfKubectl(words[1]):
			return words[1:2] // no command: the error has the advice
		}
		if noun != nil {
			rest := words[2:]
			if c := childOf(noun, words[0]); c != nil {
				return append([]string{noun.Name(), c.Name()}, rest...)
			}
			if is := acceptedCommand(noun, words[0], rest); is != nil {
				return append(is, rest...)
			}
		}
	}
	if is := acceptedCommand(root, words[0], words[1:]); is != nil {
		return append(is, words[1:]...)
	}
	return words
}

// nounOf returns the noun that a word names, such as volume, vol or volumes, or job for operation. plural reports
// whether it is a plural or a word of another tool.
func nounOf(root *cobra.Command, word string) (noun *cobra.Command, plural bool) {
	if noun = childOf(root, word); noun != nil && noun.HasSubCommands() {
		return noun, false
	}
	if name, ls := strings.CutSuffix(synonyms[word], " ls"); ls && strings.HasSuffix(word, "s") {
		return childOf(root, name), true
	}
	if name := otherNouns[word]; name != "" {
		return childOf(root, name), true
	}
	return nil, false
}

// acceptedCommand returns the words of the command that replaces a synonym below cmd, or nil if word is no accepted
// synonym. rest are the words after it. A synonym of the inspect command of each noun, such as get, is a synonym of ls
// if no name follows it.
func acceptedCommand(cmd *cobra.Command, word string, rest []string) []string {
	is := synonyms[strings.ToLower(word)]
	if name := otherNouns[word]; is == "" && name != "" && !cmd.HasParent() {
		is = name + " inspect"
	}
	if is == "" && !cmd.HasParent() && !isNoun(cmd, word) {
		if c := childOf(childOf(cmd, "volume"), word); c != nil && !c.HasSubCommands() && advise(cmd, word) == "" {
			is = "volume " + c.Name()
		}
	}
	if is == "" || advise(cmd, word) != "" {
		return nil
	}
	path := strings.Fields(resolve(cmd, is))
	if len(path) < 2 {
		return nil
	}
	found, n := commandOf(cmd.Root(), path[1:])
	if found == cmd.Root() || cmd.HasParent() && found.Parent() != cmd {
		return nil
	}
	if strings.HasSuffix(is, "inspect") && !namesItem(found, rest) {
		if is == "volume inspect" {
			return path[1:]
		}
		return append(path[1:n], "ls")
	}
	return path[1:]
}

func isNoun(root *cobra.Command, word string) bool {
	c := childOf(root, word)
	return c != nil && c.HasSubCommands()
}

// hasArgument reports whether a word is not a flag.
func hasArgument(words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return !strings.HasPrefix(w, "-") })
}

// namesItem reports whether the words after an inspect command contain the name of an item. The value of a flag of the
// ls command of the same noun is not such a name.
func namesItem(inspect *cobra.Command, words []string) bool {
	ls := childOf(inspect.Parent(), "ls")
	return len(arguments(ls, words)) > 0
}

// arguments returns the words that are neither flags of cmd nor their values.
func arguments(cmd *cobra.Command, words []string) (out []string) {
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case len(w) < 2 || w[0] != '-':
			out = append(out, w)
		case isFlag(cmd, w) && !strings.Contains(w, "=") && takesValue(cmd, w):
			i++
		}
	}
	return out
}

// translateFlags replaces the synonyms among the flags of cmd. words are its flags and arguments.
func translateFlags(cmd *cobra.Command, words []string) []string {
	cmd.InitDefaultHelpFlag()
	cmd.InheritedFlags() // adds them to cmd.Flags
	var out, last []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--":
			return slices.Concat(out, words[i:], last)
		case len(w) < 2 || w[0] != '-':
			out = append(out, w)
			continue
		}
		name, value, hasValue := strings.Cut(w, "=")
		known := isFlag(cmd, w)
		if known && !hasValue && takesValue(cmd, w) && i+1 < len(words) {
			i++
			out = append(out, translateFilter(cmd, w, words[i])...)
			continue
		} else if known {
			out = append(out, w)
			continue
		}
		next := ""
		if i+1 < len(words) && !hasValue {
			next = words[i+1]
		}
		if prefix, ok := argumentFlag(cmd, name, orElse(value, next)); ok {
			last = append(last, prefix+orElse(value, next))
			if !hasValue {
				i++
			}
			continue
		}
		is, used := replacement(cmd, name, orElse(value, next), hasValue)
		switch {
		case is == nil:
			out = append(out, w)
			continue
		case used && !hasValue:
			i++
		}
		out = append(out, is...)
	}
	return append(out, last...)
}

// argumentFlag reports whether the value of an unknown flag of cmd can be given as the last argument instead, and
// returns the prefix that the argument gets.
func argumentFlag(cmd *cobra.Command, name, value string) (prefix string, ok bool) {
	for _, f := range argumentFlags[CommandName(cmd)] {
		if f.typed == name && value != "" && value[0] != '-' {
			return f.accepted, true
		}
	}
	return "", false
}

// replacement returns the words that replace an unknown flag of cmd, or nil. used reports whether they contain value.
func replacement(cmd *cobra.Command, name, value string, hasValue bool) (is []string, used bool) {
	if option, _, _ := flagWord(name); cmd.Flags().Lookup("opt") != nil {
		if form, _ := optionNamed(option); form != "" {
			return nil, false // corrected replaces it
		}
	}
	for _, s := range flagSynonyms {
		typed, needs := strings.CutSuffix(s.typed, "=")
		if typed != name || needs && (value == "" || strings.HasPrefix(value, "-")) || !needs && hasValue {
			continue
		}
		whole := s.accepted
		if needs {
			whole += value
		}
		if f := flagOf(cmd, whole); f != nil && acceptsFormat(f, whole) {
			if flag, value, has := strings.Cut(whole, "="); has && f.Name == "filter" {
				return translateFilter(cmd, flag, value), needs
			}
			return []string{whole}, needs
		}
	}
	for _, s := range omittedFlags {
		if s.typed == name && !hasValue && cmd.Flags().Lookup(s.accepted) != nil {
			return []string{}, false
		}
	}
	long := strings.TrimPrefix(name, "--")
	if filter := listFilter(cmd, long, value); filter != "" && long != name && value != "" && value[0] != '-' {
		return []string{strings.Replace(filter, " ", "=", 1)}, true
	}
	return nil, false
}

// acceptsFormat reports whether the value of a word --output=VALUE is a format of the command. It returns true for
// other flags, except that a filter must be a pair.
func acceptsFormat(f *pflag.Flag, word string) bool {
	_, value, _ := strings.Cut(word, "=")
	switch f.Name {
	case "filter":
		return strings.Contains(value, "=")
	case "output":
		format, text, isTemplate := strings.Cut(value, "=")
		formats := strings.Split(strings.ReplaceAll(f.Value.Type(), "=TEXT", ""), "|")
		return slices.Contains(formats, format) && isTemplate == (format == "template") &&
			(!isTemplate || strings.Contains(text, "{{"))
	}
	return true
}

// translateFilter returns a flag and its value in words. Docker's filters for labels and for unused volumes become
// those of Drover.
func translateFilter(cmd *cobra.Command, flag, value string) []string {
	pair, isLabel := strings.CutPrefix(value, "label=")
	if !isLabel {
		pair, isLabel = strings.CutPrefix(value, "label.") // as in -o label.KEY=VALUE of volume create
	}
	switch {
	case flag == "--filter" && isLabel && cmd.Flags().Lookup("label") != nil:
		return []string{"--label=" + pair}
	case flag == "--filter" && value == "dangling=true" && CommandName(cmd) == "volume ls":
		return []string{"--filter=status=idle"}
	}
	return []string{flag, value}
}

// translateArguments turns a name after ls into a filter: "volume ls db" becomes "volume ls --filter name=db".
func translateArguments(cmd *cobra.Command, words []string) []string {
	key, args := argumentFilters[CommandName(cmd)], arguments(cmd, words)
	if key == "" || len(args) != 1 || slices.Contains(words, "--") {
		return words
	}
	name, _, _ := strings.Cut(args[0], "@")
	at := slices.Index(words, args[0])
	if name == "" || at > 0 && isFlag(cmd, words[at-1]) && takesValue(cmd, words[at-1]) {
		return words
	}
	return slices.Concat(words[:at], []string{"--filter=" + key + "=" + name}, words[at+1:])
}

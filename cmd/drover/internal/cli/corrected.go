package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/dataset"
)

// letterOptions maps the letters that people type for options of a volume to the options.
var letterOptions = map[string]string{"p": "profile", "s": "size", "l": "label", "d": "driver", "n": "name"}

// otherOptions maps other names that people type for options of a volume to the options.
var otherOptions = map[string]string{"protected": "protect", "read-only": "readonly", "labels": "label", "type": "fs"}

// correctedLine returns a hint with the corrected command line, such as "use: drover volume create db -o size=10GiB".
// If an option lacks its value, a placeholder stands for the value. It returns "" if no unknown flag is an option.
func correctedLine(cmd *cobra.Command, words []string) string {
	line, _ := corrected(cmd, words)
	if line == nil {
		return ""
	}
	return "use: " + shellLine(append([]string{cmd.Root().Name()}, line...))
}

// correctedWords returns the command line as corrected by the function corrected, or nil if the user may have meant
// something else.
func correctedWords(cmd *cobra.Command, words []string) []string {
	line, isCertain := corrected(cmd, words)
	if !isCertain {
		return nil
	}
	return line
}

// corrected returns the command line words with -o in place of each unknown flag that is an option of a volume: it
// replaces --size 10GiB by -o size=10GiB. isCertain is false if the result may not be what the user meant:
// if an option lacks its value, or if the line contradicts itself, such as db@bronze -p gold. corrected returns
// nil if cmd creates no volume, or if no unknown flag is an option.
func corrected(cmd *cobra.Command, words []string) (line []string, isCertain bool) {
	if cmd.Flags().Lookup("opt") == nil {
		return nil, false
	}
	isCertain = true
	var out, args []string
	profile, changed := "", false
	for i := 0; i < len(words); i++ {
		name, value, hasValue := flagWord(words[i])
		if name == "" || isFlag(cmd, words[i]) {
			out = append(out, words[i])
			if name == "" {
				args = append(args, words[i])
			} else if !hasValue && takesValue(cmd, words[i]) && i+1 < len(words) {
				i++
				out = append(out, words[i])
			}
			continue
		}
		option, boolean := optionNamed(name)
		if option == "" {
			out = append(out, words[i])
			continue
		}
		changed = true
		if !boolean && !hasValue && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			i++
			value = words[i]
		}
		isCertain = isCertain && (boolean && !hasValue || !boolean && value != "") &&
			(option != "driver" || value == "drover")
		switch option {
		case "profile":
			profile = orElse(value, "PROFILE")
		case "driver": // the command is always about Drover
		case "name":
			out = append(out, orElse(value, "NAME"))
			args = append(args, orElse(value, "NAME"))
		default:
			out = append(out, "-o", fmt.Sprintf(option, orElse(value, placeholder(name))))
		}
	}
	if !changed {
		return nil, false
	}
	line, isConsistent := withProfile(cmd, out, args, profile)
	return line, isCertain && isConsistent
}

// withProfile returns the words of a command line with the profile in the spec of the new volume, which is the last
// argument of the line. isConsistent is false if the line has no spec, or if its spec has another profile or snapshot.
func withProfile(cmd *cobra.Command, line, args []string, profile string) (words []string, isConsistent bool) {
	depth := len(strings.Fields(CommandName(cmd)))
	if profile == "" {
		return line, true
	}
	if expected := strings.Fields(cmd.Use)[1:]; len(args)-depth < len(expected) {
		name := expected[len(expected)-1]
		if name == "SPEC" {
			name = "NAME"
		}
		return append(line, name+"@"+profile), false
	}
	last := len(line) - 1 - slices.Index(reversed(line), args[len(args)-1])
	name, other, has := strings.Cut(line[last], "@")
	line[last] = name + "@" + profile
	return line, !has || other == profile
}

func reversed(words []string) []string {
	out := slices.Clone(words)
	slices.Reverse(out)
	return out
}

// flagWord splits a word of a command line into the name and value of a flag. name is "" for an argument, and for -
// alone.
func flagWord(word string) (name, value string, hasValue bool) {
	trimmed := strings.TrimLeft(word, "-")
	if trimmed == word || trimmed == "" {
		return "", "", false
	}
	name, value, hasValue = strings.Cut(trimmed, "=")
	if !strings.HasPrefix(word, "--") {
		if !hasValue && len(name) > 1 { // -s10GiB
			name, value, hasValue = name[:1], name[1:], true
		}
		if long := letterOptions[name]; long != "" {
			name = long
		}
	}
	return orElse(otherOptions[name], name), value, hasValue
}

// isFlag reports whether cmd has the flag of a word.
func isFlag(cmd *cobra.Command, word string) bool { return flagOf(cmd, word) != nil }

func flagOf(cmd *cobra.Command, word string) *pflag.Flag {
	if name, long := strings.CutPrefix(word, "--"); long {
		name, _, _ = strings.Cut(name, "=")
		return cmd.Flags().Lookup(name)
	}
	return cmd.Flags().ShorthandLookup(word[1:2])
}

// takesValue reports whether the flag of a word takes its value from the next word.
func takesValue(cmd *cobra.Command, word string) bool {
	f := flagOf(cmd, word)
	return f != nil && f.NoOptDefVal == "" && (strings.HasPrefix(word, "--") || len(word) == 2)
}

// optionNamed returns the -o form of an option that was used as a flag, with %s for its value, or "" if no option has
// that name. boolean is true if the flag has no value.
func optionNamed(name string) (form string, boolean bool) {
	switch name {
	case "profile", "driver", "name":
		return name, false
	}
	for _, h := range dataset.OptionHelp() {
		key, label := strings.CutSuffix(h.Name, ".KEY")
		switch {
		case key != name:
		case h.Value == "true|false":
			return name + "%.0s", true
		case label:
			return "label.%s", false
		default:
			return name + "=%s", false
		}
	}
	return "", false
}

// placeholder returns what stands for the missing value of an option.
func placeholder(name string) string {
	for _, h := range dataset.OptionHelp() {
		if key, label := strings.CutSuffix(h.Name, ".KEY"); key == name {
			if label {
				return "KEY=VALUE"
			}
			return h.Value
		}
	}
	return strings.ToUpper(name)
}

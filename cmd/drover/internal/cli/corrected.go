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

// correctedLine returns the command line words with options of a volume in the place of unknown flags, such as
// "use: drover volume create db -o size=10GiB" for --size 10GiB. It returns "" if cmd creates no volume, or if no
// unknown flag is an option.
func correctedLine(cmd *cobra.Command, words []string) string {
	if cmd.Flags().Lookup("opt") == nil {
		return ""
	}
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
		return ""
	}
	return "use: " + shellLine(withProfile(cmd, out, args, profile))
}

// withProfile returns the words of a command line with the profile in the spec of the new volume, which is the last
// argument of the line.
func withProfile(cmd *cobra.Command, out, args []string, profile string) []string {
	line := append([]string{cmd.Root().Name()}, out...)
	depth := len(strings.Fields(CommandName(cmd)))
	if profile == "" {
		return line
	}
	if len(args) <= depth {
		return append(line, "NAME@"+profile)
	}
	last := len(line) - 1 - slices.Index(reversed(line), args[len(args)-1])
	name, _, _ := strings.Cut(line[last], "@")
	line[last] = name + "@" + profile
	return line
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
	return name, value, hasValue
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

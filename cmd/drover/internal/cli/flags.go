package cli

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/dataset"
)

// FlagError explains a wrong flag and suggests a correct one. words is the whole command line.
func FlagError(cmd *cobra.Command, words []string, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	if word := typedCommand(cmd, words); word != "" && cmd.HasSubCommands() {
		return UnknownCommand(cmd, word)
	}
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		letter := unknown.GetSpecifiedName()[:1]
		if CommandName(cmd) == "volume resize" && letter >= "0" && letter <= "9" {
			return UsageError(cmd, "unknown flag: -%s (to shrink a volume, give its new size: drover volume resize "+
				"NAME SIZE)", letter)
		}
		hint := orElse(advise(cmd, "-"+letter), correctedLine(cmd, words))
		return UsageError(cmd, "unknown flag: -%s%s", letter, orElse(inParentheses(hint), guess(longOf(cmd, letter))))
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if text := advise(cmd, "--"+name); text != "" {
			return UsageError(cmd, "unknown flag: --%s (%s)", name, text)
		}
		isList := cmd.Flags().Lookup("sort") != nil
		if name == "format" && isList {
			return UsageError(cmd, "unknown flag: --format (use -o template=TEXT)")
		}
		if cmd.Flags().Lookup("output") != nil && (name == "json" || name == "yaml" && hasYAML(cmd)) {
			return UsageError(cmd, "unknown flag: --%s (use -o %s)", name, name)
		}
		if filter := listFilter(cmd, name, valueOf(words, "--"+name)); filter != "" {
			return UsageError(cmd, "unknown flag: --%s (use %s)", name, filter)
		}
		if line := correctedLine(cmd, words); line != "" {
			return UsageError(cmd, "unknown flag: --%s (%s)", name, line)
		}
		return UsageError(cmd, "unknown flag: --%s%s", name, guess(nearestFlag(name, flagNames(cmd))))
	case errors.As(err, &value) && value.GetFlag().Name == "output" && advise(cmd, "-o") != "":
		return UsageError(cmd, "-o %q: not an output format (%s)", dataset.Clip(value.GetValue()), advise(cmd, "-o"))
	case errors.As(err, &value):
		return valueError(cmd, value)
	}
	return UsageError(cmd, "%w", err)
}

// hasYAML reports whether a command accepts -o yaml.
func hasYAML(cmd *cobra.Command) bool {
	f := cmd.Flags().Lookup("output")
	return f != nil && strings.Contains(f.Value.Type(), formatYAML)
}

// destructive lists the flags that override a protection. A message does not suggest them for another flag, because a
// user could follow the suggestion without knowing what the flag does.
var destructive = []string{"force", "forget", "fenced", "yes", "all"}

// inParentheses returns a hint to append to a message, or "" if text is empty.
func inParentheses(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// guess returns a suggestion for an error message, or "" if flag is empty.
func guess(flag string) string {
	if flag == "" || slices.Contains(destructive, flag) {
		return ""
	}
	return " (did you mean --" + flag + "?)"
}

// valueError returns the error for a wrong value. It names the values that the flag accepts.
func valueError(cmd *cobra.Command, err *pflag.InvalidValueError) error {
	var number *strconv.NumError
	if !errors.As(err, &number) {
		return UsageError(cmd, "%w", err)
	}
	want := "a whole number, 0 or more"
	switch err.GetFlag().Value.Type() {
	case "bool":
		want = "true or false"
	case "float64":
		want = "a number, such as 1.5, or 0 for no limit"
	}
	return UsageError(cmd, "--%s %q: expected %s", err.GetFlag().Name, err.GetValue(), want)
}

// nearestFlag returns the flag that the user may mean by name: the only one that begins with it, or the most similar
// one. If there is none, it returns "".
func nearestFlag(name string, flags []string) string {
	longer := slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return !strings.HasPrefix(f, name) })
	if len(name) > 1 && len(longer) == 1 {
		return longer[0]
	}
	return dataset.Nearest(name, flags)
}

func flagNames(cmd *cobra.Command) (names []string) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// longOf returns the flag that begins with a letter, or "" if there is none or more than one. The caller only suggests
// the flag and does not apply it: docker volume rm -f overrides no protection.
func longOf(cmd *cobra.Command, letter string) string {
	var long []string
	for _, n := range flagNames(cmd) {
		if strings.HasPrefix(n, letter) {
			long = append(long, n)
		}
	}
	if len(long) != 1 {
		return ""
	}
	return long[0]
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// valueOf returns the value of a flag on the command line, or "" if it has none.
func valueOf(words []string, flag string) string {
	for i, w := range words {
		if value, ok := strings.CutPrefix(w, flag+"="); ok {
			return value
		}
		if w == flag && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			return words[i+1]
		}
	}
	return ""
}

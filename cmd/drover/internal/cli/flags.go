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

// FlagError explains a wrong flag and suggests a correct one.
func FlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch before := cmd.Flags().Args(); {
	case cmd.HasSubCommands() && len(before) > 0:
		return UnknownCommand(cmd, before[0])
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return UsageError(cmd, "unknown flag: -%s", unknown.GetSpecifiedName()[:1])
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		return UsageError(cmd, "unknown flag: --%s%s", name, flagHint(cmd, name))
	case errors.As(err, &value):
		return valueError(cmd, value)
	}
	return UsageError(cmd, "%w", err)
}

// destructive lists the flags that override a protection. A message does not suggest them for another flag, because a
// user could follow the suggestion without knowing what the flag does.
var destructive = []string{"force", "forget", "fenced", "yes", "all"}

// flagHint returns what to type instead of an unknown flag: -o for the name of an option of a volume, or the most
// similar flag. It returns "" if there is neither.
func flagHint(cmd *cobra.Command, name string) string {
	if cmd.Flags().Lookup("opt") != nil {
		for _, h := range dataset.OptionHelp() {
			if key, _, _ := strings.Cut(h.Name, "."); key == name {
				return " (use -o " + h.Name + "=" + h.Value + ")"
			}
		}
	}
	var flags, longer []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		flags = append(flags, f.Name)
		if len(name) > 1 && strings.HasPrefix(f.Name, name) {
			longer = append(longer, f.Name)
		}
	})
	flag := dataset.Nearest(name, flags)
	if len(longer) == 1 {
		flag = longer[0]
	}
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

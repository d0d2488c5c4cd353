package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// valueWords has the completions of flags. The key is the name of the flag's value in the help, such as POOL.
var valueWords = map[string]candidates{
	"NODE":   NodeWords,
	"POOL":   PoolWords,
	"VOLUME": VolumeWords,
	"LEVEL":  fixedWords("debug", "info", "warning", "error"),
	"KIND":   fixedWords("loop", "btrfs", "zfs", "lvm", "dir", "nfs"),
	"TARGET": fixedWords("swarm", "consul"),
}

// fileValues are the names of values that are completed by the shell, as files.
var fileValues = []string{"FILE", "DIR", "DEVICE", "PATH", "@FILE"}

func fixedWords(words ...string) candidates {
	return func(context.Context, Remote, []string, string) ([]string, error) { return words, nil }
}

// CompleteFlags completes the values of the flags of cmd and of all commands below it, unless a command has registered
// its own function. A flag gets no completions if its value is not a file and is not in valueWords.
func CompleteFlags(a *App, cmd *cobra.Command) {
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		value, _ := pflag.UnquoteUsage(f)
		_, registered := cmd.GetFlagCompletionFunc(f.Name)
		if registered || f.NoOptDefVal != "" || slices.Contains(fileValues, value) {
			return
		}
		words := valueWords[value]
		if words == nil {
			words = NoWords
		}
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(f.Name,
			func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
				return Complete(a, words)(cmd, nil, begun)
			}))
	})
	for _, c := range cmd.Commands() {
		CompleteFlags(a, c)
	}
}

// completeOption completes an option KEY=VALUE of a volume: the key, and the value of a key whose value is a name.
func completeOption(a *App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		key, value, pair := strings.Cut(begun, "=")
		if !pair {
			return optionKeys(begun), none | cobra.ShellCompDirectiveNoSpace
		}
		list := map[string]candidates{
			"pool": PoolWords, "profile": ProfileWords, "from": CloneSourceWords, "fs": fixedWords("ext4", "xfs"),
			"protect": fixedWords("true", "false"), "readonly": fixedWords("true", "false"),
		}[key]
		if list == nil {
			return nil, none
		}
		words, _ := Complete(a, list)(cmd, nil, value)
		for i, w := range words {
			words[i] = key + "=" + w
		}
		return words, none
	}
}

// LabelChangeWords completes the labels in the arguments of a label command: KEY=VALUE for each label that an item has,
// and KEY- to remove it.
func LabelChangeWords(labels func(context.Context, Remote) ([]map[string]string, error)) func(
	context.Context, Remote, []string, string) ([]string, error) {
	return func(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
		all, err := labels(ctx, c)
		var words []string
		for _, of := range all {
			for key, value := range of {
				words = append(words, key+"="+value, key+"-")
			}
		}
		slices.Sort(words)
		return slices.Compact(words), err
	}
}

// CompleteRest completes the first argument from one list and all further ones from another.
func CompleteRest(a *App, first, rest candidates) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
		list := first
		if len(given) > 0 {
			list = rest
		}
		return Complete(a, list)(cmd, nil, begun)
	}
}

package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/dataset"
)

// valueWords has the completions of flags. The key is the name of the flag's value in the help, such as POOL.
var valueWords = map[string]candidates{
	"NODE": NodeWords, "POOL": PoolWords, "PROFILE": ProfileWords, "REPOSITORY": RepositoryWords, "VOLUME": VolumeWords,
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

// completeOption completes the key of an option KEY=VALUE of a volume.
func completeOption(_ *cobra.Command, _ []string, begun string) (words []string, _ cobra.ShellCompDirective) {
	for _, h := range dataset.OptionHelp() {
		word, label := strings.CutSuffix(h.Name, "KEY")
		if !label {
			word += "="
		}
		if word != begun && strings.HasPrefix(word, begun) {
			words = append(words, word+"\t"+h.Help)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

func newCompletionCmd(a *app) *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for bash, fish or zsh",
		Example: `  drover completion bash > /etc/bash_completion.d/drover
  drover completion zsh > "${fpath[1]}/_drover"
  drover completion fish > ~/.config/fish/completions/drover.fish`,
		Args:              args(1),
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out, true)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			case "zsh":
				return root.GenZshCompletion(a.out)
			}
			return usage(cmd, "unknown shell %q (have: %s)", args[0], dataset.Have(shells))
		},
	}
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

func newCompletionCmd(a *cli.App) *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for bash, fish or zsh",
		Example: `  drover completion bash > /etc/bash_completion.d/drover
  drover completion zsh > "${fpath[1]}/_drover"
  drover completion fish > ~/.config/fish/completions/drover.fish`,
		Args:              cli.Args(1),
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			}
			return cli.UnknownWord(cmd, "shell", "completion", args[0], shells)
		},
	}
}

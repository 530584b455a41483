# git, told to make no threads.
set -e
export HOME="$PWD" GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_DATE='@0 +0000' GIT_COMMITTER_DATE='@0 +0000'
git init -q -b main repo
cd repo
git config user.name n
git config user.email e
git config pack.threads 1
git config grep.threads 1
git config index.threads 1
git config core.preloadIndex false
git config gc.auto 0
seq 1 500 > file
git add file
git commit -q -m first
seq 2 501 > file
git diff --stat
git commit -q -a -m second
git log --format='%H %s'
git grep -n 99
git gc -q
git fsck --no-progress
git status --short
